"""Schedule-free training: no decay to plan, an average that is always ready.

Of the x, y and z of `schedule_free` two are kept: y, which are the params, and the gap
x - z' as it is before x follows, where a prime marks the next. From these,

    gap' = (1 - c) gap + lr d
    y' = y - (b1 - b1' + b1' c') gap' - lr (1 - b1) d

    x = y + (1 - b1) (1 - c) gap        z = y - b1 (1 - c) gap

so nothing is divided by b1, and each can be written in place, the gap first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import _tree
from ._checks import check, check_float, check_int, check_params


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free`; trees have None in place of integers and keys."""

    schedule_free_count: jax.Array  # int32 scalar, updates so far
    schedule_free_b1: jax.Array  # float scalar, the b1 of the current params
    schedule_free_max_rate: jax.Array  # float scalar, the largest learning rate so far
    schedule_free_weight_sum: jax.Array  # float (2,), sum and its rounding error
    schedule_free_c: jax.Array  # float scalar, the c of the latest update
    schedule_free_gap: Any  # x - z before x went c of the way
    schedule_free_y: Any  # y before its rounding, None where the params are y itself
    direction_state: Any  # state of the direction


def schedule_free(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free training with any direction: params are y, `eval_params` is x.

        weight   w = (k + 1)^r max(lr up to k)^weight_lr_power,   c = w / (sum of w)
        update   z' = z - lr d    x' = x + c (z' - x)    y' = b1 x' + (1 - b1) z'

    for update k from 0, where d is the direction that belongs to the gradients at y.
    Warmup helps. The rate need not fall, and a falling one does not lower the weights.

    The state is x - z, beside the direction's: 4 bytes a parameter for any b1. Params
    below float32 are the rounding of y, and the state then holds y as well.

    To freeze leaves, wrap it in `optax.partition`, `optax.masked` or
    `optax.selective_transform`. What comes after it in a chain changes y, but not x.

    Args:
        direction: A transformation from gradients to ascent directions, without a rate:
            `optax.scale_by_rms`, `optax.contrib.scale_by_muon`, or a chain with
            `optax.add_decayed_weights`, which decays at y. It gets extra arguments.
        learning_rate: Rate >= 0, or a schedule of the count.
        b1: Share of x in y, in [0, 1), or a schedule. At 0, x averages plain training.
        weight_lr_power: Exponent of the largest rate so far in the weights, >= 0.
        r: Exponent of the step in the weights, >= 0.
        decoupling: C > 0. With it c becomes min(1, c (1 - b1) C), so that the averaged
            span no longer depends on b1; C = 1 / (1 - b1) changes nothing.
        start_step: First update that is averaged, >= 0; before it c = 1 and x = z.
        state_dtype: Float32 or wider; default: the leaf's dtype, at least float32.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, `params` is missing in an update, or
            `init` finds that the direction goes downhill, as `optax.sgd` does.

    Example:
        >>> from optax_wsd import eval_params
        >>> params, tx = jnp.array(0.0), schedule_free(optax.identity(), 1.0, b1=0.5)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.array(-2.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), float(eval_params(state, params))
        (3.5, 3.0)

    References:
        Defazio et al., 2024, arXiv:2405.15682, algorithm 1; decoupling: Song et al.,
        2025, arXiv:2507.09846, section 5.
    """
    is_transform = isinstance(direction, optax.GradientTransformation)
    check(is_transform, "direction", direction, "an optax.GradientTransformation")
    rate_at = _schedule("learning_rate", learning_rate)
    b1_at = _schedule("b1", b1, below=1)
    check_float("weight_lr_power", weight_lr_power, at_least=0)
    check_float("r", r, at_least=0)
    if decoupling is not None:
        check_float("decoupling", decoupling, above=0)
    check_int("start_step", start_step)
    _tree.check_state_dtype(state_dtype)
    direction = optax.with_extra_args_support(direction)

    def init_fn(params):
        params = _tree.as_arrays(params)
        _check_ascent(direction, params)
        y = _tree.wide_copies(params, state_dtype)
        kept_y = _tree.map_averaged(
            lambda p, y: None if y.dtype == p.dtype else y, params, y
        )
        return ScheduleFreeState(
            schedule_free_count=jnp.zeros([], jnp.int32),
            schedule_free_b1=b1_at(0),
            schedule_free_max_rate=jnp.zeros([], float),
            schedule_free_weight_sum=jnp.zeros([2], float),
            schedule_free_c=jnp.zeros([], float),
            schedule_free_gap=jax.tree.map(lambda y: _tree.zeros_as(y, y.dtype), y),
            schedule_free_y=kept_y,
            direction_state=direction.init(_tree.wide_copies(params)),
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params)
        params = _tree.as_arrays(params)
        k, old_c = state.schedule_free_count, state.schedule_free_c
        lr, old_b1, new_b1 = rate_at(k), state.schedule_free_b1, b1_at(k)
        max_rate = jnp.maximum(state.schedule_free_max_rate, lr)
        weight_sum, c = _weigh(state, k, max_rate, weight_lr_power, r, start_step)
        if decoupling is not None:
            c = jnp.minimum(1, c * (1 - new_b1) * decoupling)
        c = jnp.where(k < start_step, 1, c)

        kept_y = state.schedule_free_y
        y = _tree.map_averaged(lambda p, y: p if y is None else y, params, kept_y)
        gradients = _tree.map_averaged(
            lambda p, g: jnp.asarray(g, _tree.average_dtype(p.dtype)), params, updates
        )

        def direct(direction_state):
            return direction.update(gradients, direction_state, y, **extra_args)

        d, direction_state = direct(state.direction_state)
        y_d = d
        if _tree.find_states(direction_state, ScaleByAdamVState):
            # The gap and y both read d. On a CPU, XLA would store it for them: 52 bytes
            # of traffic a float32 parameter, and 4 of temporaries. Adam's arithmetic
            # done twice takes 48 and none, if a barrier hides that both are the same.
            def apart(state):
                count = jax.lax.optimization_barrier(state.adam_v_count)
                return state._replace(adam_v_count=count)

            old = state.direction_state
            y_d, _ = direct(_tree.map_states(apart, old, ScaleByAdamVState))

        def move_gap(gap, d):
            return (gap - old_c * gap + lr * d).astype(gap.dtype)

        def move_y(gap, d):
            pull, rate = old_b1 - new_b1 + new_b1 * c, lr * (1 - old_b1)
            return (-pull * gap - rate * d).astype(gap.dtype)

        gap = jax.tree.map(move_gap, state.schedule_free_gap, d)
        moves = jax.tree.map(move_y, gap, y_d)
        kept_y = jax.tree.map(lambda m, y: None if y is None else y + m, moves, kept_y)
        return jax.tree.map(_update, params, updates, moves, kept_y), ScheduleFreeState(
            schedule_free_count=_tree.next_count(k),
            schedule_free_b1=new_b1,
            schedule_free_max_rate=max_rate,
            schedule_free_weight_sum=weight_sum,
            schedule_free_c=c,
            schedule_free_gap=gap,
            schedule_free_y=kept_y,
            direction_state=direction_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def schedule_free_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    b1: optax.ScalarOrSchedule = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free SGD: `schedule_free` with the gradients as direction.

        rate   learning_rate min(1, (k + 1) / warmup_steps)
        d      g + weight_decay y

    Args:
        learning_rate: Rate >= 0 or schedule; 10 to 50 times that of SGD.
        warmup_steps: Updates of warmup, the first at 1 / warmup_steps; 0 for none.
        b1: As in `schedule_free`, in the place of momentum.
        weight_decay: Decay >= 0 at y, or a schedule.
        mask: Tree of booleans, or a function from params to one: what is decayed.
        weight_lr_power, r, decoupling, start_step, state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> from optax_wsd import eval_params
        >>> params, tx = jnp.array(0.0), schedule_free_sgd(1.0, warmup_steps=2)
        >>> state = tx.init(params)
        >>> for _ in range(2):  # z is 0.5 and 1.5, with weights 0.25 and 1
        ...     updates, state = tx.update(jnp.array(-1.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> round(float(eval_params(state, params)), 4)
        1.3

    References:
        Defazio et al., 2024, arXiv:2405.15682, equations 6 to 8.
    """
    rate = _warmed(learning_rate, warmup_steps)
    options = b1, weight_lr_power, r, decoupling, start_step, state_dtype
    return _decayed(optax.identity(), rate, weight_decay, mask, *options)


def schedule_free_adamw(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    *,
    warmup_steps: jax.typing.ArrayLike = 0,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW: `schedule_free` with Adam's scaling as direction.

        rate   learning_rate min(1, (k + 1) / warmup_steps)
        d      g / (sqrt(v / (1 - b2^(k + 1))) + eps) + weight_decay y

    The state of float32 params is x - z and v: 8 bytes a parameter, as for AdamW.

    Args:
        learning_rate: Rate >= 0 or schedule; 1 to 10 times that of AdamW.
        warmup_steps: As in `schedule_free_sgd`.
        b1: As in `schedule_free_sgd`; `growing_b1_schedule()` fits runs of any length.
        b2: Decay of the second moment v, in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay, mask: As in `schedule_free_sgd`.
        weight_lr_power, r, decoupling, start_step, state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> tx = schedule_free_adamw(0.1, warmup_steps=5)
        >>> params = jnp.array([3.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> print(updates)  # a fifth of the rate, against the gradient
        [-0.02  0.02]

    References:
        Defazio et al., 2024, arXiv:2405.15682, algorithm 1, where the rate debiases v.
    """
    rate = _warmed(learning_rate, warmup_steps)
    options = b1, weight_lr_power, r, decoupling, start_step, state_dtype
    return _decayed(_scale_by_adam_v(b2, eps), rate, weight_decay, mask, *options)


def schedule_free_radam(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    weight_lr_power: jax.typing.ArrayLike = 2.0,
    r: jax.typing.ArrayLike = 0.0,
    decoupling: jax.typing.ArrayLike | None = None,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free RAdam: `schedule_free_adamw` with RAdam's rectifier for a warmup.

        rate   learning_rate sqrt((p - 4)(p - 2) P / ((P - 4)(P - 2) p)), 0 while p <= 4
               P = 2 / (1 - b2) - 1,  p = P - 2 t b2^t / (1 - b2^t),  t = k + 1

    While p <= 4, for 4 updates with the default b2, only the second moment is gathered.

    Args:
        learning_rate: Rate >= 0 or schedule.
        b1: As in `schedule_free`.
        b2: Decay of the second moment v, in (0.6, 1): P must be above 4.
        eps, weight_decay, mask: As in `schedule_free_adamw`.
        weight_lr_power, r, decoupling, start_step, state_dtype: As in `schedule_free`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> params, moved, tx = jnp.array(1.0), [], schedule_free_radam(0.1)
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
    rate = _scaled(learning_rate, lambda t: _rectifier(b2, t))
    options = b1, weight_lr_power, r, decoupling, start_step, state_dtype
    return _decayed(_scale_by_adam_v(b2, eps), rate, weight_decay, mask, *options)


def _update(p, u, move, y):
    """The move as an update of p, from p to the rounding of y where y is kept."""
    if _tree.is_averaged(p):
        move = move if y is None else _tree.rounded(y, p.dtype) - p.astype(y.dtype)
        return move.astype(p.dtype)
    # Integers get a zero; keys have none, and functions no update at all.
    has_zero = isinstance(p, jax.Array)
    has_zero = has_zero and not jnp.issubdtype(p.dtype, jax.dtypes.extended)
    return jnp.zeros_like(p) if has_zero and u is not None else u


def _weigh(state, k, max_rate, power, r, start_step):
    """The sum of weights, in units of max_rate^power, and the newest weight's share."""
    unit = jnp.where(max_rate > 0, max_rate, 1)
    shrink = (state.schedule_free_max_rate / unit) ** power
    counts = ((max_rate > 0) | (power == 0)) & (k >= start_step)
    weight = jnp.where(counts, (k.astype(float) + 1) ** r, 0)
    old, error = state.schedule_free_weight_sum * shrink
    # Compensated: a float32 sum of ones would stop at 2^24.
    weight_left = weight - error
    total = old + weight_left
    error = (total - old) - weight_left
    c = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
    return jnp.stack([total, error]), c


def _rectifier(b2, t):
    new, log_b2 = _tree.complement_and_log(b2)
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
    new, log_b2 = _tree.complement_and_log(b2)

    def init_fn(params):
        v = jax.tree.map(lambda p: _tree.zeros_as(p, jnp.finfo(p.dtype).dtype), params)
        return ScaleByAdamVState(jnp.zeros([], jnp.int32), v)

    def update_fn(updates, state, params=None):
        count = _tree.next_count(state.adam_v_count)
        debias = -jnp.expm1(count.astype(float) * log_b2)

        def moment(g, v):
            return (v + new * (jnp.square(jnp.abs(g)) - v)).astype(v.dtype)

        v = jax.tree.map(moment, updates, state.adam_v)
        d = jax.tree.map(lambda g, v: g / (jnp.sqrt(v / debias) + eps), updates, v)
        return d, ScaleByAdamVState(count, v)

    return optax.GradientTransformation(init_fn, update_fn)


def _decayed(direction, rate, weight_decay, mask, *options):
    """`schedule_free` with weight decay at y; its options, in its order."""
    _schedule("weight_decay", weight_decay)
    direction = optax.chain(direction, optax.add_decayed_weights(weight_decay, mask))
    names = "b1", "weight_lr_power", "r", "decoupling", "start_step", "state_dtype"
    return schedule_free(direction, rate, **dict(zip(names, options, strict=True)))


def _warmed(rate, warmup_steps):
    check_int("warmup_steps", warmup_steps)
    return _scaled(rate, lambda t: jnp.minimum(1, t / jnp.maximum(warmup_steps, 1)))


def _scaled(learning_rate, factor):
    """The rate of update k, times a factor of its number from 1."""
    rate_at = _schedule("learning_rate", learning_rate)
    return lambda k: rate_at(k) * factor(k.astype(float) + 1)


def _schedule(argument, value, **bounds):
    """A number >= 0 or a schedule, as a function of the count."""
    if not callable(value):
        check_float(argument, value, at_least=0, **bounds)
    return lambda k: jnp.asarray(value(k) if callable(value) else value, float)


def _check_ascent(direction, params):
    """Refuses what falls when gradients of one number a leaf rise; even under jit."""

    def tiny(p):
        return jnp.zeros([min(n, 1) for n in p.shape], _tree.average_dtype(p.dtype))

    try:
        with jax.ensure_compile_time_eval():
            at_0 = _tree.map_averaged(tiny, params)
            at_1 = jax.tree.map(jnp.ones_like, at_0)
            state = direction.init(at_0)
            low, high = (direction.update(g, state, at_0)[0] for g in (at_0, at_1))
            rise = jax.tree.map(lambda a, b: jnp.sum(jnp.real(b - a)), low, high)
            ok = not float(sum(jax.tree.leaves(rise))) < 0
    except Exception:
        return  # It needs what only the run has: extra arguments, traced numbers.
    need = "an ascent direction with no rate, as optax.identity() or scale_by_rms()"
    check(ok, "direction", "one that goes downhill by itself", need)
