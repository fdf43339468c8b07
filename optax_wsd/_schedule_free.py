"""Schedule-free training: no decay to plan, an average that is always ready.

Three sequences: gradients are taken at y (the params), steps are made by z, and x, the
average of z, is what one evaluates:

    y = b1 x + (1 - b1) z        z' = z - lr d(y)        x' = x + c (z' - x)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ._checks import check, check_float, check_int, check_params
from ._tree import (
    average_dtype,
    check_state_dtype,
    complement_and_log,
    copy_as,
    find_states,
    is_averaged,
    map_averaged,
    map_states,
    next_count,
    rounded,
    zeros_as,
)


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free`."""

    schedule_free_count: jax.Array  # int32 scalar, updates so far
    schedule_free_b1: jax.Array  # float scalar, the b1 of the params at hand
    schedule_free_max_rate: jax.Array  # float scalar, the largest learning rate so far
    schedule_free_weight_sum: jax.Array  # float (2,), sum and its rounding error
    schedule_free_z: Any  # z, MaskedNode in place of integers and keys
    schedule_free_gap: Any  # x - z, MaskedNode where it follows from y and z
    direction_state: Any  # state of the direction


def schedule_free(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free training with any direction: params are y, `eval_params` is x.

        weight   w = (k + 1)^r max(lr up to k)^weight_lr_power,   c = w / (sum of w)
        update   y' = y + c (z - y) - lr (1 - b1 (1 - c)) d       z' = z - lr d

    for update k from 0, with the direction d computed at y from its gradients. The
    learning rate is given here, once; the direction has none. Warmup helps; a decay is
    not needed, and a falling rate does not lower the weights.

    The state is z, beside the direction's. x is recovered from y and z where that is
    accurate; where it is not, x - z is kept too, in float32 or better: params below
    float32, b1 below 0.5, b1 a schedule or an array.

    Freeze leaves around it, with `optax.partition`, `optax.masked` or
    `optax.selective_transform`: what comes after it in a chain changes y alone, and
    cannot stop z.

    Args:
        direction: A transformation from gradients to ascent directions, without a
            learning rate: `optax.scale_by_rms`, `optax.scale_by_lion`,
            `optax.contrib.scale_by_muon`, or a chain with `optax.add_decayed_weights`
            (which then decays at y). Extra arguments of the update go to it.
        learning_rate: Rate >= 0, or a schedule of the count.
        b1: Interpolation in [0, 1), or a schedule of the count; 0 is the average of
            plain training, larger values average the gradients' points more.
        weight_lr_power: Exponent of the largest rate so far in the weights, >= 0.
        r: Exponent of the step in the weights, >= 0.
        decoupling: C > 0: c becomes min(1, c (1 - b1) C), which makes the averaging
            span independent of b1. C = 1 / (1 - b1) changes nothing.
        state_dtype: Dtype of z, float32 or wider; default: the leaf's, at least
            float32.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from optax_wsd import eval_params
        >>> tx = schedule_free(optax.identity(), 1.0, b1=0.5)
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.array(-2.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> x, z = eval_params(state, params), state.schedule_free_z
        >>> float(x), float(params), float(z)
        (3.0, 3.5, 4.0)

    References:
        Defazio et al., 2024, arXiv:2405.15682, algorithm 1; decoupling: Song et al.,
        2025, arXiv:2507.09846, section 5.
    """
    is_transform = isinstance(direction, optax.GradientTransformation)
    check(is_transform, "direction", direction, "an optax.GradientTransformation")
    _check_rate("learning_rate", learning_rate)
    if not callable(b1):
        check_float("b1", b1, at_least=0, below=1)
    check_float("weight_lr_power", weight_lr_power, at_least=0)
    check_float("r", r, at_least=0)
    if decoupling is not None:
        check_float("decoupling", decoupling, above=0)
    check_state_dtype(state_dtype)
    direction = optax.with_extra_args_support(direction)
    recoverable = isinstance(b1, float) and b1 >= 0.5

    def leaf_dtype(p):
        return average_dtype(p.dtype, state_dtype)

    def init_fn(params):
        def gap(p):
            follows = recoverable and leaf_dtype(p) == p.dtype
            return optax.MaskedNode() if follows else zeros_as(p, leaf_dtype(p))

        return ScheduleFreeState(
            schedule_free_count=jnp.zeros([], jnp.int32),
            schedule_free_b1=_at(b1, 0),
            schedule_free_max_rate=jnp.zeros([], float),
            schedule_free_weight_sum=jnp.zeros([2], float),
            schedule_free_z=map_averaged(lambda p: copy_as(p, leaf_dtype(p)), params),
            schedule_free_gap=map_averaged(gap, params),
            direction_state=direction.init(_widened(params, params)),
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params)
        k = state.schedule_free_count
        lr = _at(learning_rate, k)
        new_share = 1 - b1 if isinstance(b1, float) else 1 - _at(b1, k)
        max_rate = jnp.maximum(state.schedule_free_max_rate, lr)
        weight_sum, c = _weigh(state, k, max_rate, weight_lr_power, r)
        if decoupling is not None:
            c = jnp.minimum(1, c * new_share * decoupling)

        def direct(direction_state):
            gradients = _widened(params, updates)
            return direction.update(
                gradients, direction_state, _widened(params, params), **extra_args
            )

        d, direction_state = direct(state.direction_state)
        y_d = d
        if find_states(state.direction_state, ScaleByAdamVState):
            # For two readers a CPU writes d into new memory, which takes longer than
            # the whole update; doing Adam's arithmetic twice does not.
            y_d, _ = direct(_set_apart(state.direction_state))
        old_z, old_gap = state.schedule_free_z, state.schedule_free_gap
        y_rate = lr * new_share * (1 - c)

        def move_z(_, z, d):
            return (z - _like(lr, z) * d).astype(z.dtype)

        def move_gap(gap, old_z, z):
            if _is_masked(gap):
                return gap
            # With z as it was rounded: x then follows it without a stall.
            gap = gap + (old_z - z)
            return gap - _like(c, gap) * gap

        def move_y(p, g, z, gap, d):
            if not is_averaged(p):
                return _no_update(p, g)
            y = p.astype(z.dtype)
            if _is_masked(gap):
                # From the new z: z and y can then be written in place, one by one.
                move = _like(c, y) * (z - y) - _like(y_rate, y) * d
            else:
                move = rounded(z + _like(1 - new_share, z) * gap, p.dtype) - y
            return move.astype(p.dtype)

        z = map_averaged(move_z, params, old_z, d)
        gap = jax.tree.map(move_gap, old_gap, old_z, z, is_leaf=_is_masked)
        updates = jax.tree.map(move_y, params, updates, z, gap, y_d)
        return updates, ScheduleFreeState(
            schedule_free_count=next_count(k),
            schedule_free_b1=_at(b1, k),
            schedule_free_max_rate=max_rate,
            schedule_free_weight_sum=weight_sum,
            schedule_free_z=z,
            schedule_free_gap=gap,
            direction_state=direction_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def schedule_free_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    b1: optax.ScalarOrSchedule = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    mask: Any = None,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free SGD: `schedule_free` with the gradients as direction.

        rate   learning_rate min(1, (k + 1) / warmup_steps)
        d      g + weight_decay y

    Args:
        learning_rate: Rate >= 0 or schedule; 10 to 50 times that of SGD.
        warmup_steps: Updates of warmup, the first at 1 / warmup_steps; 0 is none.
        b1: As in `schedule_free`; takes the place of momentum.
        weight_decay: Decay >= 0 at y, or a schedule.
        weight_lr_power, r, decoupling: As in `schedule_free`.
        mask: Tree of booleans, or a function from params to one: what is decayed.
        state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = schedule_free_sgd(1.0, warmup_steps=2)
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     _, state = tx.update(jnp.array(-1.0), state, params)
        >>> float(state.schedule_free_z)
        1.5

    References:
        Defazio et al., 2024, arXiv:2405.15682, equations 6 to 8.
    """
    return schedule_free(
        _decayed(optax.identity(), weight_decay, mask),
        _warmed(learning_rate, warmup_steps),
        b1=b1,
        weight_lr_power=weight_lr_power,
        r=r,
        decoupling=decoupling,
        state_dtype=state_dtype,
    )


def schedule_free_adamw(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    mask: Any = None,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW: `schedule_free` with Adam's scaling as direction.

        rate   learning_rate min(1, (k + 1) / warmup_steps)
        d      g / (sqrt(v / (1 - b2^(k + 1))) + eps) + weight_decay y

    The state of float32 params is z and v: 8 bytes a parameter, as for AdamW.

    Args:
        learning_rate: Rate >= 0 or schedule; 1 to 10 times that of AdamW.
        warmup_steps: Updates of warmup, the first at 1 / warmup_steps; 0 is none.
        b1: As in `schedule_free`; takes the place of momentum. 0.95 or 0.98 for long
            runs.
        b2: Decay of the second moment v, in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay: Decay >= 0 at y, or a schedule.
        weight_lr_power, r, decoupling: As in `schedule_free`.
        mask: Tree of booleans, or a function from params to one: what is decayed.
        state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from optax_wsd import eval_params
        >>> tx = schedule_free_adamw(0.1, warmup_steps=5)
        >>> params = jnp.array([3.0, -2.0])
        >>> state = tx.init(params)
        >>> for _ in range(200):
        ...     updates, state = tx.update(params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(jnp.all(jnp.abs(eval_params(state, params)) < 0.5))
        True

    References:
        Defazio et al., 2024, arXiv:2405.15682, algorithm 1, with the bias correction of
        v apart from the rate.
    """
    return schedule_free(
        _decayed(_scale_by_adam_v(b2, eps), weight_decay, mask),
        _warmed(learning_rate, warmup_steps),
        b1=b1,
        weight_lr_power=weight_lr_power,
        r=r,
        decoupling=decoupling,
        state_dtype=state_dtype,
    )


def schedule_free_radam(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    mask: Any = None,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free RAdam: `schedule_free_adamw` with RAdam's rectifier for a warmup.

        rate   learning_rate sqrt((p - 4)(p - 2) P / ((P - 4)(P - 2) p)), 0 while p <= 4
               P = 2 / (1 - b2) - 1,  p = P - 2 t b2^t / (1 - b2^t),  t = k + 1

    The first 4 updates only gather the second moment.

    Args:
        learning_rate: Rate >= 0 or schedule.
        b1: As in `schedule_free`.
        b2: Decay of the second moment v, in (0.6, 1): P must be above 4.
        eps: Added to the denominator, >= 0.
        weight_decay: Decay >= 0 at y, or a schedule.
        weight_lr_power, r, decoupling: As in `schedule_free`.
        mask: Tree of booleans, or a function from params to one: what is decayed.
        state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = schedule_free_radam(0.1)
        >>> params, moved = jnp.array(1.0), []
        >>> state = tx.init(params)
        >>> for _ in range(6):
        ...     updates, state = tx.update(params, state, params)
        ...     moved.append(bool(updates != 0))
        >>> moved
        [False, False, False, False, True, True]

    References:
        Liu et al., 2020, arXiv:1908.03265, algorithm 2; Defazio et al., 2024,
        arXiv:2405.15682.
    """
    check_float("b2", b2, above=0.6, below=1)
    _check_rate("learning_rate", learning_rate)

    def rate(k):
        return _at(learning_rate, k) * _rectifier(b2, k.astype(float) + 1)

    return schedule_free(
        _decayed(_scale_by_adam_v(b2, eps), weight_decay, mask),
        rate,
        b1=b1,
        weight_lr_power=weight_lr_power,
        r=r,
        decoupling=decoupling,
        state_dtype=state_dtype,
    )


def _weigh(state, k, max_rate, power, r):
    """The sum of weights, in units of max_rate^power, and the newest weight's share."""
    rate = jnp.where(max_rate > 0, max_rate, 1)
    shrink = jnp.where(max_rate > 0, state.schedule_free_max_rate / rate, 1) ** power
    weight = jnp.where((max_rate > 0) | (power == 0), (k.astype(float) + 1) ** r, 0)
    old, error = state.schedule_free_weight_sum * shrink
    # Compensated: a float32 sum of ones would stop at 2^24.
    weight_left = weight - error
    total = old + weight_left
    error = (total - old) - weight_left
    c = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
    return jnp.stack([total, error]), c


def _rectifier(b2, t):
    new, log_b2 = complement_and_log(b2)
    limit = 2 / new - 1
    length = jnp.maximum(limit - 2 * t / jnp.expm1(-t * log_b2), 4)
    ratio = (length - 4) * (length - 2) / length
    return jnp.sqrt(ratio * limit / ((limit - 4) * (limit - 2)))


class ScaleByAdamVState(NamedTuple):
    """State of the direction of `schedule_free_adamw`."""

    adam_v_count: jax.Array  # int32 scalar, updates so far
    adam_v: Any  # moving average of the squared gradients


def _scale_by_adam_v(b2, eps) -> optax.GradientTransformation:
    """Adam without momentum; its 1 - b2^t is exact in float32 from the first update."""
    check_float("b2", b2, at_least=0, below=1)
    check_float("eps", eps, at_least=0)
    new, log_b2 = complement_and_log(b2)

    def init_fn(params):
        def zeros(p):
            return zeros_as(p, jnp.finfo(p.dtype).dtype)

        v = jax.tree.map(zeros, params)
        return ScaleByAdamVState(jnp.zeros([], jnp.int32), v)

    def update_fn(updates, state, params=None):
        del params
        count = next_count(state.adam_v_count)
        debias = -jnp.expm1(count.astype(float) * log_b2)

        def moment(g, v):
            return v + _like(new, v) * (jnp.square(jnp.abs(g)) - v)

        def scale(g, v):
            return g / (jnp.sqrt(v / _like(debias, v)) + _like(eps, v))

        v = jax.tree.map(moment, updates, state.adam_v)
        return jax.tree.map(scale, updates, v), ScaleByAdamVState(count, v)

    return optax.GradientTransformation(init_fn, update_fn)


def _set_apart(direction_state):
    """The same state, from which compilers compute the direction anew."""

    def behind_barrier(state):
        count = jax.lax.optimization_barrier(state.adam_v_count)
        return state._replace(adam_v_count=count)

    return map_states(behind_barrier, direction_state, ScaleByAdamVState)


def _decayed(direction, weight_decay, mask) -> optax.GradientTransformation:
    _check_rate("weight_decay", weight_decay)
    return optax.chain(direction, optax.add_decayed_weights(weight_decay, mask))


def _warmed(learning_rate, warmup_steps) -> optax.Schedule:
    _check_rate("learning_rate", learning_rate)
    check_int("warmup_steps", warmup_steps)

    def rate(k):
        done = (k + 1).astype(float) / jnp.maximum(warmup_steps, 1)
        return _at(learning_rate, k) * jnp.where(k < warmup_steps, done, 1)

    return rate


def _check_rate(argument, value):
    if not callable(value):
        check_float(argument, value, at_least=0)


def _at(value_or_schedule, k) -> jax.Array:
    is_schedule = callable(value_or_schedule)
    value = value_or_schedule(k) if is_schedule else value_or_schedule
    return jnp.asarray(value, float)


def _like(scalar, leaf):
    """A scalar in the real dtype of a leaf, so that it does not widen the leaf."""
    return jnp.asarray(scalar, jnp.finfo(leaf.dtype).dtype)


def _widened(params, tree):
    """The tree in float32 or better, without the leaves that have no average."""

    def widen(p, leaf):
        dtype = average_dtype(p.dtype)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=dtype)
        return jnp.asarray(leaf, dtype)

    return map_averaged(widen, params, tree)


def _is_masked(leaf) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _no_update(p, g):
    """Zeros for integers; keys have no zero, and none is asked of them."""
    return g if jnp.issubdtype(p.dtype, jax.dtypes.prng_key) else jnp.zeros_like(p)
