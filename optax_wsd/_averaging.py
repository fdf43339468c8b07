"""Averages of the params: one transform, and a coefficient for each of them.

Each moves on the line a + w (p - a) towards the params p after an update. Only the
weight w of the t-th sample, counted from 1, is its own:

    ema (1 - d) / (1 - d^t)    power 1 - (1 - 1/t)^(gamma + 1)    swa 1/t
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import _tree
from ._checks import check, check_float, check_int, check_params, is_traced


class ParamsEmaState(NamedTuple):
    """State of `params_ema`."""

    average_count: jax.Array  # int32 scalar, updates so far
    average_samples: jax.Array  # int32 scalar, samples so far
    params_ema: Any  # the average, None in place of integers and keys
    ema_remainder: Any  # bfloat16, what rounding left out; () for decay <= 0.9999


class ParamsPowerEmaState(NamedTuple):
    """State of `params_power_ema`; its fields are those of `ParamsEmaState`."""

    average_count: jax.Array
    average_samples: jax.Array
    params_power_ema: Any


class ParamsSwaState(NamedTuple):
    """State of `params_swa`; the first fields are those of `ParamsEmaState`."""

    average_count: jax.Array
    average_samples: jax.Array
    params_swa: Any
    swa_window: Any  # the mean of the window under way; () without windows


class ParamsLawaState(NamedTuple):
    """State of `params_lawa`; the counters are those of `ParamsEmaState`."""

    average_count: jax.Array
    average_samples: jax.Array
    params_lawa: Any  # the latest snapshots of each leaf, on a new leading axis


def params_ema(
    decay: jax.typing.ArrayLike,
    *,
    every: jax.typing.ArrayLike = 1,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Exponential moving average of the params, exactly debiased.

        sample    1    2                t
        average   p1   (d p1 + p2)/(d + 1)   sum of d^(t-i) pi / sum of d^(t-i)

    Updates pass through unchanged. Put it last in a chain and read the average with
    `eval_params`, which gives the params themselves until the first sample. A sample is
    the params after an update, as `optax.apply_updates` rounds them: that of number k,
    counted from 1, if k > start_step and k - start_step is a multiple of `every`.

    The average is one copy of the params. If they stand still, it approaches them to
    2^-24 / (1 - decay) of their size, below which its steps round away. Above a decay
    of 0.9999, unless that is traced, a bfloat16 remainder keeps what rounding left out.

    Args:
        decay: Weight of the past, in [0, 1). The horizon is 1 / (1 - decay) samples.
        every: Updates between samples, >= 1. Updates without a sample cost nothing,
            except on GPUs with jax 0.10, where each one copies the average.
        start_step: Updates before sampling starts, >= 0.
        state_dtype: Float32 or wider; default: the leaf's dtype, at least float32.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> from optax_wsd import eval_params
        >>> params, tx = jnp.array(0.0), optax.chain(optax.sgd(1.0), params_ema(0.5))
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.array(-3.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), float(eval_params(state, params))
        (6.0, 5.0)

    References:
        Morales-Brotons et al., 2024, arXiv:2411.18704; debiasing: Kingma and Ba, 2015,
        arXiv:1412.6980, section 3.
    """
    check_float("decay", decay, at_least=0, below=1)
    new, log_decay = _tree.complement_and_log(decay)
    is_long = not is_traced(decay) and _tree.known(decay) > 0.9999

    def no_remainder(a):
        return _tree.zeros_as(a, jnp.bfloat16) if a.dtype == jnp.float32 else None

    def first(average):
        return average, jax.tree.map(no_remainder, average) if is_long else ()

    def absorb(t, sample, average, remainder):
        t = t.astype(float)
        total = -jnp.expm1(t * log_decay)
        weight = jnp.where((t == 1) | (total == 0), 1 / t, new / total)
        if jax.tree.leaves(remainder):
            return _lerp_exactly(weight, sample, average, remainder)
        return _lerp_params(weight, sample, average), remainder

    return _average(ParamsEmaState, first, absorb, every, start_step, state_dtype)


def params_power_ema(
    gamma: jax.typing.ArrayLike,
    *,
    every: jax.typing.ArrayLike = 1,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Average of the params in which sample t has a weight that grows as t^gamma.

        gamma              0              larger
        average over       all samples    the latest fraction of the run

    The span grows with the run. `post_hoc_ema_weights` makes any other gamma from two.

    Args:
        gamma: Exponent, >= 0; see `gamma_from_width` and `gamma_from_half_life`.
        every, start_step, state_dtype: As in `params_ema`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> from optax_wsd import eval_params
        >>> tx = params_power_ema(1.0)
        >>> state = tx.init(jnp.zeros(()))
        >>> for params in jnp.array([4.0, 8.0]):  # samples, as the updates are 0
        ...     _, state = tx.update(jnp.zeros(()), state, params)
        >>> round(float(eval_params(state, params)), 4)
        7.0

    References:
        Karras et al. (EDM2), 2023, arXiv:2312.02696, section 3.1.
    """
    check_float("gamma", gamma, at_least=0)

    def absorb(t, sample, average):
        left = jnp.log1p(-1 / t.astype(float))
        power = jnp.maximum(jnp.asarray(gamma, float), 0) + 1
        return (_lerp_params(-jnp.expm1(power * left), sample, average),)

    shared = every, start_step, state_dtype
    return _average(ParamsPowerEmaState, lambda average: (average,), absorb, *shared)


def params_swa(
    *,
    every: jax.typing.ArrayLike = 1,
    start_step: jax.typing.ArrayLike = 0,
    window: int | None = None,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Uniform mean of the params, over all samples or over the latest whole window.

        window   None               w updates
        average  all samples        the w / every samples of the latest finished window;
                                    until one is, the samples of the first so far

    Windows follow each other without overlap.

    Args:
        every, start_step: As in `params_ema`.
        window: Updates, a multiple of `every`, neither traced. Costs a second average.
        state_dtype: As in `params_ema`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> from optax_wsd import eval_params
        >>> tx = params_swa(window=2)
        >>> state, means = tx.init(jnp.zeros(())), []
        >>> for params in jnp.arange(1.0, 6.0):  # samples, as the updates are 0
        ...     _, state = tx.update(jnp.zeros(()), state, params)
        ...     means.append(float(eval_params(state, params)))
        >>> means
        [1.0, 1.5, 1.5, 3.5, 3.5]

    References:
        Izmailov et al., 2018, arXiv:1803.05407; windows of 500 updates sampled every 5:
        Hägele et al., 2024, arXiv:2405.18392, section 4.
    """
    if window is not None:
        check_int("window", window, at_least=1)
        check_int("every", every, at_least=1)
        ok = not (is_traced(window) or is_traced(every))
        ok = ok and _tree.known(window) % _tree.known(every) == 0
        need = f"a multiple of every ({every!r}), neither of them traced"
        check(ok, "window", window, need)

    def first(average):
        return average, () if window is None else _tree.wide_copies(average)

    def absorb(t, sample, latest, under_way):
        if window is None:
            return _lerp_params(1 / t.astype(float), sample, latest), under_way
        size = _tree.known(window) // _tree.known(every)
        position = (t - 1) % size + 1
        under_way = _lerp_params(1 / position.astype(float), sample, under_way)
        is_answer = (position == size) | (t < size)
        return jax.lax.cond(is_answer, lambda: under_way, lambda: latest), under_way

    return _average(ParamsSwaState, first, absorb, every, start_step, state_dtype)


def params_lawa(
    size: int,
    *,
    every: jax.typing.ArrayLike,
    start_step: jax.typing.ArrayLike = 0,
    state_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Uniform mean of the latest `size` snapshots of the params.

        samples   1    2            ...   size or more
        average   p1   (p1 + p2)/2        mean of the latest size

    The state holds them all: `size` copies of the params.

    Args:
        size: Snapshots, >= 1, not traced.
        every, start_step, state_dtype: As in `params_ema`.

    Returns:
        A transformation that needs `params` in its update.

    Raises:
        ValueError: a number is out of range, or `params` is missing in an update.

    Example:
        >>> from optax_wsd import eval_params
        >>> tx = params_lawa(2, every=1)
        >>> state = tx.init(jnp.zeros(()))
        >>> for params in jnp.arange(1.0, 10.0):  # samples, as the updates are 0
        ...     _, state = tx.update(jnp.zeros(()), state, params)
        >>> float(eval_params(state, params))
        8.5

    References:
        Kaddour, 2022, arXiv:2209.14981; Sanyal et al., 2023, arXiv:2306.03241.
    """
    check_int("size", size, at_least=1)
    check(not is_traced(size), "size", size, "known when it is built, not traced")
    size = _tree.known(size)

    def stack(p):
        if isinstance(p, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((size, *p.shape), p.dtype)
        return jax.lax.broadcast(p, (size,))

    def first(average):
        return (jax.tree.map(stack, average),)

    def absorb(t, sample, stacks):
        def put(p, stack):
            p = p.astype(stack.dtype)
            return jax.lax.dynamic_update_index_in_dim(stack, p, (t - 1) % size, 0)

        return (jax.tree.map(put, sample, stacks),)

    return _average(ParamsLawaState, first, absorb, every, start_step, state_dtype)


AVERAGES = ParamsEmaState, ParamsPowerEmaState, ParamsSwaState, ParamsLawaState


def averages_of(state) -> Any:
    """The tree of averages in a state: in its field of the factory's name."""
    if not isinstance(state, ParamsLawaState):
        return getattr(state, _tree.factory_name(type(state)))

    def mean(stack):
        # Differences, so that the mean of equal snapshots is exactly theirs.
        size = stack.shape[0]
        filled = jnp.minimum(state.average_samples, size)
        used = (jnp.arange(size) < filled).reshape(size, *[1] * (stack.ndim - 1))
        apart = jnp.where(used, stack - stack[:1], 0)
        return stack[0] + jnp.sum(apart, 0) / jnp.maximum(filled, 1).astype(float)

    return jax.tree.map(mean, state.params_lawa)


def _average(kind, first, absorb, every, start_step, state_dtype):
    """Its state: two counters, and trees that `first` makes and `absorb` updates."""
    check_int("every", every, at_least=1)
    check_int("start_step", start_step)
    _tree.check_state_dtype(state_dtype)
    known_when = not (is_traced(every) or is_traced(start_step))
    each_update = known_when and bool(every == 1) and bool(start_step == 0)

    def init_fn(params):
        trees = first(_tree.wide_copies(_tree.as_arrays(params), state_dtype))
        return kind(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), *trees)

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params)
        count, samples, *trees = state
        count = _tree.next_count(count)

        def after(p, u):  # as `optax.apply_updates` has it
            return p if u is None else jnp.asarray(p + u).astype(p.dtype)

        # Inside the branch, the params and the updates would always be copied for it.
        new_params = _tree.map_averaged(after, _tree.as_arrays(params), updates)

        def take():
            t = _tree.next_count(samples)
            sample = jax.tree.map(lambda p: _tree.rounded(p, p.dtype), new_params)
            return kind(count, t, *absorb(t, sample, *trees))

        if each_update:
            return updates, take()
        age = count - jnp.asarray(start_step, jnp.int32)
        is_sample = (age > 0) & (age % jnp.asarray(every, jnp.int32) == 0)
        unchanged = kind(count, samples, *trees)
        return updates, jax.lax.cond(is_sample, take, lambda: unchanged)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _lerp_params(weight, sample, average):
    """a + weight (p - a), in the dtype of a."""

    def leaf(p, a):
        return _tree.lerp(a, p.astype(a.dtype), weight.astype(jnp.finfo(a.dtype).dtype))

    return jax.tree.map(leaf, sample, average)


def _lerp_exactly(weight, sample, average, remainder):
    """The lerp of average + remainder, split again after rounding."""

    def leaf(p, a, r):
        if r is None:  # of a leaf that is not float32
            return _lerp_params(weight, p, a), None
        move = weight.astype(a.dtype) * ((p - a) - r.astype(a.dtype)) + r
        new = jnp.where(weight == 1, p, a + move)
        return new, jnp.where(weight == 1, 0, move - (new - a)).astype(r.dtype)

    pairs = jax.tree.map(leaf, sample, average, remainder)
    return [jax.tree.map(lambda _, pair, i=i: pair[i], sample, pairs) for i in (0, 1)]
