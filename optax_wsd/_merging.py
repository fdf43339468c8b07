"""Averages chosen afterwards: snapshots of one run, merged with chosen weights."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, SupportsFloat, SupportsInt

import jax
import jax.numpy as jnp
import numpy as np

from . import _tree
from ._checks import Numbers, check, check_float, check_int
from .shapes import Shape, check_shape, multiplier


def merge_weights(num_snapshots: int, shape: Shape) -> np.ndarray:
    """Weights under which averaging snapshots equals decaying their updates.

        snapshot   0          i                n - 1
        weight     1 - w_1    w_i - w_(i+1)    w_(n-1)      with w_i = shape(i / n)

    If a constant run moves by u_i from snapshot i - 1 to i, the average is snapshot 0
    plus the sum of w_i u_i: that run, its later moves cooled down by the shape. A run
    that really cools down has other moves. Where a shape rises, a weight is negative.

    Args:
        num_snapshots: n >= 1, the same number of updates apart.
        shape: Cooldown shape, see `optax_wsd.shapes`.

    Returns:
        A float64 array [num_snapshots], oldest snapshot first; it sums to 1.

    Raises:
        ValueError: num_snapshots is out of range, or shape is not a finite function.

    Example:
        >>> from optax_wsd import shapes
        >>> merge_weights(4, shapes.linear).tolist()
        [0.25, 0.25, 0.25, 0.25]
        >>> [round(c, 3) for c in merge_weights(4, shapes.one_minus_sqrt).tolist()]
        [0.5, 0.207, 0.159, 0.134]

    References:
        Tian et al. (WSM), 2025, arXiv:2507.17634, theorem 3.1.
    """
    check_int("num_snapshots", num_snapshots, at_least=1)
    check_shape(shape)
    with jax.enable_x64(True):
        inner = multiplier(shape, np.arange(1, num_snapshots), num_snapshots)
    inner = np.broadcast_to(np.asarray(inner, np.float64), (num_snapshots - 1,))
    check(np.all(np.isfinite(inner)), "shape", shape, "finite between 0 and 1")
    return -np.diff(np.concatenate([[1.0], inner, [0.0]]))


def merge_params(snapshots: Iterable[Any], weights: Numbers) -> Any:
    """The weighted average of snapshots of the params, one snapshot at a time.

        merged = weights[0] snapshot_0 + ... + weights[n-1] snapshot_(n-1)

    If `snapshots` is an iterator that loads each one when asked, memory holds one, and
    the average, however many there are. Sums are float32, but float64 for float64
    params and Python floats. Integers and random keys come from the last snapshot.

    Args:
        snapshots: Trees of arrays and numbers of one structure, shapes and dtypes.
        weights: One for each, from `merge_weights` or `post_hoc_ema_weights`, for
            instance; they sum to 1, to within rounding to float32.

    Returns:
        A tree like a snapshot, with its dtypes and shardings; NumPy leaves stay NumPy.

    Raises:
        ValueError: the snapshots are more or fewer than the weights, or differ in
            structure or shapes, or the weights are not finite or do not sum to 1.

    Example:
        >>> snapshots = ({"w": np.full(2, float(i))} for i in range(3))
        >>> merge_params(snapshots, [0.5, 0.25, 0.25])["w"].tolist()
        [0.75, 0.75]

    References:
        Izmailov et al. (SWA), 2018, arXiv:1803.05407; Li et al. (PMA), 2025,
        arXiv:2505.12082.
    """
    weights = np.asarray(weights, np.float64)
    check_float("weights", weights)
    n = weights.size
    check(weights.ndim == 1 and n > 0, "weights", weights, "a list of numbers")
    # Weights rounded to float32 are off by 6e-8 of each; more would scale the model.
    total, near = float(np.sum(weights)), 1e-6 * float(np.sum(np.abs(weights)))
    need = "numbers that sum to 1: divide them by their sum"
    check(abs(total - 1) <= near, "weights", total, need)
    merged, last, count, need = None, None, 0, f"as many as there are weights ({n})"
    for count, last in enumerate(snapshots, start=1):
        check(count <= n, "snapshots", f"{count} or more", need)
        merged = jax.tree.map(_zero, last) if merged is None else merged
        accumulate = functools.partial(_accumulate, weights[count - 1] / total)
        merged = jax.tree.map(accumulate, merged, last)
    check(count == n, "snapshots", count, need)

    def finish(m, p):
        if not _tree.is_averaged(p):
            return p
        return m.astype(p.dtype) if hasattr(p, "dtype") else type(p)(m)

    return jax.tree.map(finish, merged, last)


def post_hoc_ema_weights(
    stored: Sequence[tuple[int, float]] | np.ndarray,
    gamma: SupportsFloat,
    step: SupportsInt,
) -> np.ndarray:
    """Weights that rebuild a power average of any gamma from a few stored ones.

    The power average of gamma at step t puts weight (gamma + 1) s^gamma / t^(gamma + 1)
    on the params of time s <= t; `params_power_ema` is exactly that if params k fill
    the time from k - 1 to k. The result is the combination of the stored averages whose
    weight on the past is nearest to it in least squares, scaled to sum to 1.

    Two gammas, one above and one below those wanted, stored 16 or more times, rebuild
    any gamma between them to well under 1 %. Weights have both signs. Large ones show
    that the stored averages do not contain what is asked for.

    Args:
        stored: (step, gamma) of each average, in the order of merging. A step is the
            number of samples in the average, >= 1.
        gamma: Exponent wanted, > -0.5; see `gamma_from_width`, `gamma_from_half_life`.
        step: Step at which the average is wanted, from 1 to the last stored step.

    Returns:
        A float64 array [len(stored)] that sums to 1, for `merge_params`.

    Raises:
        ValueError: a number is out of range, or pairs are the same or nearly so.

    Example:
        >>> stored = [(t, g) for t in (25, 50, 75, 100) for g in (4.0, 16.0)]
        >>> weights = post_hoc_ema_weights(stored, 8.0, 100)
        >>> [round(x, 3) for x in weights.tolist()]
        [-0.0, 0.0, -0.006, 0.001, -0.131, 0.024, 0.782, 0.33]

    References:
        Karras et al. (EDM2), 2024, arXiv:2312.02696, section 3 and appendix C.
    """
    need = "a list of (step, gamma) pairs"
    check(len(stored) > 0 and all(len(s) == 2 for s in stored), "stored", stored, need)
    for stored_step, stored_gamma in stored:
        check_int("stored step", stored_step, at_least=1)
        check_float("stored gamma", stored_gamma, above=-0.5)
    check_float("gamma", gamma, above=-0.5)
    check_int("step", step, at_least=1)
    steps, gammas = np.asarray(stored, np.float64).T
    last = int(np.max(steps))
    check(int(step) <= last, "step", step, f"at most the last stored step, {last}")
    # Scaled to a unit diagonal, so that the condition number is that of the averages.
    norms = np.sqrt(_inner(steps, gammas, steps, gammas))
    gram = _inner(steps[:, None], gammas[:, None], steps, gammas)
    gram = gram / (norms[:, None] * norms)
    need = "averages that differ enough: drop steps or gammas that nearly repeat others"
    check(np.linalg.cond(gram) < 1e12, "stored", stored, need)
    wanted = _inner(steps, gammas, float(int(step)), float(gamma)) / norms
    weights = np.linalg.solve(gram, wanted) / norms
    return weights / np.sum(weights)


def gamma_from_width(relative_width: SupportsFloat) -> float:
    """The gamma whose power average has this relative width.

        relative_width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

    The relative width is the standard deviation of the average's weight over time, as a
    fraction of the time so far. A narrow average forgets fast.

    Args:
        relative_width: Above 0, at most 12^-0.5 = 0.2887, where gamma is 0.

    Returns:
        gamma >= 0.

    Raises:
        ValueError: relative_width is not a number in its range.

    Example:
        >>> [round(gamma_from_width(w), 2) for w in (0.05, 0.1, 0.2)]
        [16.97, 6.94, 1.83]

    References:
        Karras et al. (EDM2), 2024, arXiv:2312.02696, appendix C.
    """
    check_float("relative_width", relative_width, above=0, at_most=12**-0.5)
    s = float(relative_width) ** -2
    return max(0.0, float(np.max(np.roots([1, 7, 16 - s, 12 - s]).real)))


def gamma_from_half_life(fraction: SupportsFloat) -> float:
    """The gamma whose power average has, at step t, the half-life fraction * t.

        gamma + 1 = ln 2 / fraction

    At step t the average forgets at the rate (gamma + 1) / t, as an EMA with decay
    2^(-1 / (fraction t)) does. Half of its weight lies on the last 1 - exp(-fraction)
    of the past, a little less than fraction.

    Args:
        fraction: Of the steps so far, above 0 and at most ln 2, where gamma is 0.

    Returns:
        gamma >= 0.

    Raises:
        ValueError: fraction is not a number in its range.

    Example:
        >>> [round(gamma_from_half_life(f), 2) for f in (0.05, 0.1, 0.5)]
        [12.86, 5.93, 0.39]

    References:
        "Anytime pretraining", 2026, arXiv:2602.03702.
    """
    check_float("fraction", fraction, above=0, at_most=math.log(2))
    return math.log(2) / float(fraction) - 1


def _zero(leaf):
    """A float32 or float64 sum of nothing, beside its leaf."""
    if not _tree.is_averaged(leaf):
        return leaf
    xp = jnp if isinstance(leaf, jax.Array) else np
    return xp.zeros_like(leaf, _tree.average_dtype(xp.asarray(leaf).dtype))


def _accumulate(weight: float, merged, leaf):
    if not _tree.is_averaged(leaf):
        return merged
    got, need = np.shape(leaf), f"of shape {merged.shape}"
    check(got == merged.shape, "snapshots", got, need)
    if isinstance(merged, np.ndarray):
        merged += np.multiply(leaf, weight, dtype=merged.dtype)
        return merged
    return _add(merged, leaf, weight)


_add = jax.jit(lambda m, p, w: m + w * p.astype(m.dtype), donate_argnums=0)


def _inner(t_i, gamma_i, t_j, gamma_j):
    """The integral of the product of two power averages' weights on the past."""
    ratio = np.asarray(t_i / t_j)
    power = np.where(ratio < 1, ratio**gamma_j, ratio**-gamma_i)
    norm = (gamma_i + gamma_j + 1) * np.maximum(t_i, t_j)
    return (gamma_i + 1) * (gamma_j + 1) * power / norm
