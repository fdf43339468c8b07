"""Laws that choose a schedule before training, and its cooldown while training.

The convex bound needs nothing but the schedule. A loss law is fitted to logged losses
of a run and of one cooldown branched off it, and then predicts the loss under any
schedule. Everything here is NumPy on the host and takes seconds on one core.

Learning rates come as arrays of one rate per update, from update 0 on:

    >>> import numpy as np, optax_wsd
    >>> schedule = optax_wsd.wsd_schedule(1e-3, 100, warmup_steps=10, cooldown_steps=20)
    >>> learning_rates = np.asarray(schedule(np.arange(100)))
"""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from . import shapes
from ._checks import Numbers, as_floats, check, check_float, check_int

__all__ = [
    "Cooldowns",
    "Curve",
    "LossLaw",
    "best_cooldown",
    "deepseek_batch_size",
    "deepseek_learning_rate",
    "fit_loss_law",
    "last_iterate_bound",
    "optimal_scale",
]

Curve = tuple[Numbers, Numbers, Numbers]
"""The learning_rates, steps and losses of one run, for `fit_loss_law`."""

# Of the loss law, and not fitted to its curves: benchmarks/README.md has their source.
EARLY = 0.3  # part of the shortest run, whose steps are read in no curve
GAIN_OF_PROGRESS = 0.15  # how much the gain falls when P falls by 1
MODEL_ERROR = 0.018  # standard deviation, in parts of P
# a, q, speed * sqrt(reach), b, and the part of a cooldown's gain that the average has
# which equals it: medians, and the spread of their natural logarithms.
PRIOR = (0.45, 0.7, 10.0, 0.25, 1.0)
PRIOR_SPREAD = np.array([0.3, 0.2, 0.4, 0.3, 0.15])
MAX_GROUPS = 512  # changes of the rate that the sum over them keeps apart


def last_iterate_bound(
    learning_rates: Numbers, *, distance: float = 1.0, gradient_norm: float = 1.0
) -> float:
    """Bound on the suboptimality of the last iterate of SGD, for convex losses.

        D^2 + G^2 sum_{s<=T} h_s^2     G^2         h_k      sum_{s>=k} h_s^2
        --------------------------- + ----  sum  ---------  ----------------
             2 sum_{s<=T} h_s          2    k<T  sum_{s>k} h_s  sum_{s>=k} h_s

    with the rates h_1 to h_T up to the last above 0. It orders real schedules well.

    Args:
        learning_rates: One rate per update, >= 0, [T].
        distance: D, from the first iterate to the minimum, > 0.
        gradient_norm: G, the largest norm of a gradient, > 0.

    Returns:
        The bound, in units of the loss.

    Raises:
        ValueError: a number is out of range, or no rate is above 0.

    Example:
        >>> round(last_iterate_bound(np.full(400, 0.02)), 4)
        0.1382

    References:
        Schaipp et al., 2025, arXiv:2501.18965, theorem 3.1.
    """
    return sum(_bound_terms(learning_rates, distance, gradient_norm))


def optimal_scale(
    learning_rates: Numbers, *, distance: float = 1.0, gradient_norm: float = 1.0
) -> tuple[float, float]:
    """The factor on a whole schedule that makes `last_iterate_bound` smallest.

    Args:
        learning_rates: One rate per update, >= 0, [T]; only their shape matters.
        distance, gradient_norm: As in `last_iterate_bound`.

    Returns:
        (scale, bound): `scale * learning_rates` has this bound, the least of all.

    Raises:
        ValueError: as `last_iterate_bound`.

    Example:
        >>> [round(x, 4) for x in optimal_scale(np.arange(400, 0, -1) / 400)]
        [0.0496, 0.1006]

    References:
        Schaipp et al., 2025, arXiv:2501.18965, section 4.
    """
    steps_term, noise_term = _bound_terms(learning_rates, distance, gradient_norm)
    return math.sqrt(steps_term / noise_term), 2 * math.sqrt(steps_term * noise_term)


def deepseek_learning_rate(compute: float) -> float:
    """The peak learning rate of DeepSeek LLM's scaling law, 0.3118 C^-0.125.

    Args:
        compute: C, non-embedding training FLOPs, > 0. Fitted on 1e17 to 2e19, for AdamW
            and a warmup-and-multi-step schedule.

    Returns:
        The peak learning rate.

    Raises:
        ValueError: compute is not a number > 0.

    Example:
        >>> round(deepseek_learning_rate(1e19), 6)
        0.001315

    References:
        DeepSeek-AI, 2024, arXiv:2401.02954, equation 1.
    """
    check_float("compute", compute, above=0)
    return 0.3118 * float(compute) ** -0.1250


def deepseek_batch_size(compute: float) -> float:
    """The batch size of DeepSeek LLM's scaling law, 0.2920 C^0.3271, in tokens.

    Args:
        compute: C, non-embedding training FLOPs, > 0. Fitted on 1e17 to 2e19.

    Returns:
        Tokens per update.

    Raises:
        ValueError: compute is not a number > 0.

    Example:
        >>> round(deepseek_batch_size(1e19))
        478942

    References:
        DeepSeek-AI, 2024, arXiv:2401.02954, equation 1.
    """
    check_float("compute", compute, above=0)
    return 0.2920 * float(compute) ** 0.3271


class LossLaw(NamedTuple):
    """The loss under any learning rate schedule; `fit_loss_law` makes one.

        loss(n) = floor + P - (gain + 0.15 (P - progress)) sum_k drop_k r(S_k)
        P = progress (S/reach)^-a,  r(s) = 1 - (1 + speed s)^-b

    x_t = learning_rates[t] / peak_value are relative rates, S is their sum over the n
    updates done, S_k the sum over updates k to n - 1, and drop_k = x_(k-1)^q - x_k^q
    for k from the end of the warmup on. floor + P is what training brings at the peak
    rate, the rest what a falling rate adds to it: the noise of a rate grows as its q-th
    power and falls with P, and r is the part of it that is gone S_k after the fall.
    Losses are in the unit of those it was fitted to.

    References:
        Luo et al. (multi-power law), 2025, arXiv:2503.12811, where q is 1 and r is also
        faster at low rates; Tissue et al., 2024, arXiv:2408.11029.
    """

    floor: float  # loss after endless training, >= 0
    progress: float  # above the floor at the peak rate, when S is `reach`, >= 0
    progress_exponent: float  # a
    gain: float  # of a fall from the peak to 0, when S is `reach`, >= 0
    rate_exponent: float  # q
    speed: float  # of the response, per update at the peak rate
    response_exponent: float  # b
    peak_value: float  # the highest rate of the curves of the fit
    reach: float  # the largest S of the curves of the fit
    residual: float = 0.0  # root mean square error of the fit, in units of the loss
    # The first seven, a standard deviation away along each axis of their uncertainty.
    spread: tuple[tuple[float, ...], ...] = ()

    def predict(self, learning_rates: Numbers, steps: Numbers) -> np.ndarray:
        """The loss under a schedule, after each of the given numbers of updates.

        Args:
            learning_rates: One rate per update, >= 0, in the unit of the fit's, [T].
            steps: Numbers of updates done, 1 to T, of any shape.

        Returns:
            A float64 array of the shape of steps.

        Raises:
            ValueError: a number is out of range, or no rate is above 0 before a step.

        Example:
            >>> law = LossLaw(3.0, 0.3, 0.5, 0.12, 0.7, 0.1, 0.3, 1e-3, 1000.0)
            >>> cooled = np.linspace(1e-3, 0, 1000)
            >>> law.predict(cooled, [500, 1000]).round(3).tolist()
            [3.46, 3.369]
        """
        path = self._path(learning_rates, steps)
        return self._losses(path).reshape(np.shape(steps))

    def predict_interval(
        self, learning_rates: Numbers, steps: Numbers, *, coverage: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the loss of a run will be, with a probability of `coverage`.

        Its middle is `predict`; its width is what the fit leaves open, the noise of an
        evaluation, and the error of the law, in proportion to the progress left, P.

        Args:
            learning_rates, steps: As for `predict`.
            coverage: Above 0 and below 1.

        Returns:
            (low, high), each as `predict` returns it.

        Raises:
            ValueError: as `predict`, or coverage is out of its range.

        Example:
            >>> law = LossLaw(3.0, 0.3, 0.5, 0.12, 0.7, 0.1, 0.3, 1e-3, 1000.0, 0.001)
            >>> low, high = law.predict_interval(np.linspace(1e-3, 0, 1000), 1000)
            >>> print(low.round(3), high.round(3))
            3.357 3.382
        """
        check_float("coverage", coverage, above=0, below=1)
        path, shape = self._path(learning_rates, steps), np.shape(steps)
        losses = self._losses(path)
        left = (path.progress / self.reach) ** -self.progress_exponent
        others = [LossLaw._make((*o, *self[7:])) for o in self.spread]
        errors = [law._losses(path) - losses for law in others]
        errors += [self.residual, MODEL_ERROR * self.progress * left]
        deviation = np.sqrt(sum(error**2 for error in errors))
        width = NormalDist().inv_cdf((1 + coverage) / 2) * deviation
        return (losses - width).reshape(shape), (losses + width).reshape(shape)

    def _path(self, learning_rates, steps) -> "_Path":
        rates = _check_rates(learning_rates)
        return _Path(rates / self.peak_value, _check_steps(steps, len(rates)).ravel())

    def _losses(self, path: "_Path") -> np.ndarray:
        floor, progress, a, gain, *others, _, reach, _, _ = self
        return path.columns(reach, a, *others) @ [floor, progress, gain]


def fit_loss_law(
    curves: Sequence[Curve], averages: Sequence[tuple[float, Curve]] = ()
) -> LossLaw:
    """Fits a `LossLaw` to logged losses: a stable run and one cooldown will do.

    Least squares, with each run weighted by its own noise, and without the early
    transient: the first 0.3 of the shortest run. The exponents and the speed have
    priors, for what the curves say little about; those that say nothing are refused.

    An average of weights is the end of a cooldown, as far as the gradients stay the
    same: that by `params_power_ema(gamma)` after n updates has the rates of its run,
    times 1 - (t / n)^(gamma + 1), and a part of the gain near 1, which is fitted too.

    Args:
        curves: For each run (learning_rates, steps, losses): the rate of every update
            from 0 on, the updates done when a loss was logged, and these losses, of
            validation rather than training. All have one model, data and batch size.
        averages: (gamma, curve) for each run whose average was evaluated too; they may
            stand in for a cooldown. Those of the later half of a trunk do.

    Returns:
        The law, with the root mean square of its errors as `residual`.

    Raises:
        ValueError: curves have a wrong form, or lack a run, which the message names.

    Example:
        >>> steps, trunk = np.arange(100, 1001, 20), np.full(1000, 1e-3)
        >>> branch = np.where(np.arange(1000) < 800, 1e-3, 1e-4)
        >>> truth = LossLaw(3.0, 0.3, 0.5, 0.12, 0.7, 0.1, 0.3, 1e-3, 1000.0)
        >>> curves = [(lr, steps, truth.predict(lr, steps)) for lr in (trunk, branch)]
        >>> law = fit_loss_law(curves)
        >>> linear = np.linspace(1e-3, 0, 1000)
        >>> bool(abs(law.predict(linear, 1000) - truth.predict(linear, 1000)) < 0.002)
        True

    References:
        Luo et al., 2025, arXiv:2503.12811; Tissue et al., 2024, arXiv:2408.11029.
    """
    from scipy import optimize

    checked = list(_check_curves(curves))
    peak_value = max(float(np.max(rates)) for rates, _, _ in checked)
    early = EARLY * min(np.max(steps) for _, steps, _ in checked)
    runs = len(checked)
    checked += _as_cooldowns(averages)
    _check_identified(checked, peak_value)
    losses = np.concatenate([losses[steps >= early] for _, steps, losses in checked])
    paths = [_Path(rates / peak_value, n[n >= early]) for rates, n, _ in checked]
    reach = max(float(np.max(path.progress, initial=0)) for path in paths)
    # The response is slower in longer runs, as one over the square root of their sum.
    prior = np.log(PRIOR) - np.array([0, 0, math.log(reach) / 2, 0, 0])

    def columns(logs):
        *exponents, of_average = np.exp(logs)
        parts = np.where(np.arange(len(paths)) < runs, 1.0, of_average)
        each = zip(paths, parts, strict=True)
        return np.concatenate([p.columns(reach, *exponents, part=g) for p, g in each])

    def solve(logs, noise):
        """The best floor, progress and gain for the other parameters."""
        matrix = columns(logs)
        q, r = np.linalg.qr(matrix / noise[:, None])
        factors, _ = optimize.nnls(r, q.T @ (losses / noise))
        return factors, matrix @ factors - losses

    def misfits(logs, noise):
        return np.append(solve(logs, noise)[1] / noise, (logs - prior) / PRIOR_SPREAD)

    # Each run has its own noise, and all averages together have theirs.
    sizes = [len(path.progress) for path in paths]
    run = np.repeat(np.minimum(np.arange(len(paths)), runs), sizes)
    logs, noise = prior, np.ones(len(losses))
    for _ in range(10):
        squares = solve(logs, noise)[1] ** 2
        # One error more than a run has, of the size of all: few may be small by luck.
        squares = np.mean(squares) + np.bincount(run, squares)
        squares /= 1 + np.bincount(run)
        # Errors of neighbouring losses go together: as one independent one in four.
        noise = 2 * np.maximum(np.sqrt(squares), 1e-6)[run]
        logs = optimize.least_squares(misfits, logs, args=(noise,)).x
    factors, errors = solve(logs, noise)
    found = "progress {1:.3g} and gain {2:.3g}".format(*factors)
    check(factors[1] > 0, "curves", found, "losses that fall in training")

    def fields(factors, logs):
        (floor, progress, gain), (a, q, speed, b, _) = factors, np.exp(logs)
        return tuple(map(float, (floor, progress, a, gain, q, speed, b)))

    # The axes of the uncertainty: of the squares at their least, to second order.
    shifts = 1e-4 * np.eye(5)
    slopes = [(columns(logs + h) - columns(logs - h)) @ factors / 2e-4 for h in shifts]
    of_losses = np.column_stack([columns(logs), *slopes]) / noise[:, None]
    of_priors = np.column_stack([np.zeros((5, 3)), np.diag(1 / PRIOR_SPREAD)])
    _, sizes, axes = np.linalg.svd(np.concatenate([of_losses, of_priors]), False)
    shifts = axes / np.maximum(sizes, 0.1)[:, None]
    spread = tuple(fields(factors + s[:3], logs + s[3:]) for s in shifts)
    residual = float(np.sqrt(np.mean(errors**2)))
    return LossLaw._make((*fields(factors, logs), peak_value, reach, residual, spread))


class Cooldowns(NamedTuple):
    """What `best_cooldown` found."""

    cooldown_steps: np.ndarray  # the lengths asked about, ascending, [n]
    total_steps: np.ndarray  # updates done at the end of each, [n]
    losses: np.ndarray  # predicted loss at the end of each, [n]
    best: int  # the length advised
    widths: np.ndarray  # half of the 90 % interval of each loss, [n]


def best_cooldown(
    law: LossLaw,
    learning_rates: Numbers,
    cooldown_steps: Sequence[int] | np.ndarray,
    *,
    total_steps: int | None = None,
    shape: shapes.Shape = shapes.one_minus_sqrt,
    end_value: float = 0.0,
) -> Cooldowns:
    """How long to cool a stable run down, and the loss that each length would give.

    Without total_steps every cooldown starts now, after the last of learning_rates. The
    longest length is advised that is not too long for its own end: no shorter cooldown,
    begun later on the stable run, would reach the same step with a lower loss.

    With total_steps every cooldown ends there, and that of the lowest loss is advised.

    Args:
        law: From `fit_loss_law`.
        learning_rates: One per update of the stable run, which goes on at the last, >0.
        cooldown_steps: Lengths to compare, >= 1.
        total_steps: Updates at the end of training, when that is fixed.
        shape: Cooldown shape, see `optax_wsd.shapes`.
        end_value: Rate at the end of the cooldown, from 0 to that last rate.

    Returns:
        `Cooldowns`: lengths, totals, losses and the best length.

    Raises:
        ValueError: a number is out of range, or total_steps is too near for a length.

    Example:
        >>> law = LossLaw(3.0, 0.3, 0.5, 0.12, 0.7, 0.1, 0.3, 1e-3, 10_000.0)
        >>> plan = best_cooldown(law, np.full(10_000, 1e-3), [500, 1000, 2000])
        >>> plan.total_steps.tolist()
        [10500, 11000, 12000]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 4, for what to expect.
    """
    trunk = _check_rates(learning_rates)
    check(np.size(cooldown_steps) > 0, "cooldown_steps", cooldown_steps, "not empty")
    check_int("cooldown_steps", cooldown_steps, at_least=1)
    check(trunk[-1] > 0, "the last of learning_rates", trunk[-1], "above 0")
    check_float("end_value", end_value, at_least=0, at_most=float(trunk[-1]))
    shapes.check_shape(shape)
    lengths = np.unique(np.asarray(cooldown_steps, np.int64))
    if total_steps is None:
        ends = len(trunk) + lengths
    else:
        need = f"at least {len(trunk)} steps done and the longest cooldown"
        check_int("total_steps", total_steps, at_least=1)
        check(total_steps - lengths[-1] >= len(trunk), "total_steps", total_steps, need)
        ends = np.full_like(lengths, total_steps)

    def run(length, end):
        stable = np.full(end - length - len(trunk), trunk[-1])
        # One array size for all lengths, so that JAX compiles the shape once.
        m = shapes.multiplier(shape, np.arange(lengths[-1]), length)[:length]
        cooldown = end_value + (trunk[-1] - end_value) * np.asarray(m, np.float64)
        return np.concatenate([trunk, stable, cooldown]), end

    low, high = np.array([law.predict_interval(*r) for r in map(run, lengths, ends)]).T
    losses, widths = (low + high) / 2, (high - low) / 2
    if total_steps is None:
        pays = [
            all(losses[i] <= law.predict(*run(n, end)) for n in lengths[:i])
            for i, end in enumerate(ends)
        ]
        best = lengths[np.flatnonzero(pays)[-1]]
    else:
        best = lengths[np.argmin(losses)]
    return Cooldowns(lengths, ends, losses, int(best), widths)


class _Path:
    """A schedule in relative rates, seen from the steps at which losses are wanted."""

    def __init__(self, x: np.ndarray, steps: np.ndarray):
        total = np.concatenate([[0.0], np.cumsum(x)])
        check(np.all(total[steps] > 0), "steps", steps, "after a rate above 0")
        first = int(np.argmax(x))  # the end of the warmup
        self.progress = total[steps]
        self.before, self.after, at = _group(x[first:], first)
        # The sum of rates from each change to each step.
        self.since = np.maximum(self.progress[:, None] - total[at], 0)

    def columns(self, reach, a, q, speed, b, part=1.0) -> np.ndarray:
        """What floor, progress and gain are multiplied with, [steps, 3]."""
        response = -np.expm1(-b * np.log1p(speed * self.since))
        gain = part * (response @ (self.before**q - self.after**q))
        p = (self.progress / reach) ** -a
        progress = p - GAIN_OF_PROGRESS * (p - 1) * gain
        return np.stack([np.ones_like(gain), progress, -gain], axis=1)


def _group(x: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates before and after each change, and its step; neighbours together if many."""
    drops = -np.diff(x, prepend=1.0)
    at = np.flatnonzero(drops)
    if at.size == 0:
        return np.zeros(0), np.zeros(0), at
    starts = np.unique(np.arange(MAX_GROUPS) * at.size // MAX_GROUPS)
    ends = np.append(starts[1:], at.size) - 1
    size = np.abs(drops[at])
    centre = np.add.reduceat(size * at, starts) / np.add.reduceat(size, starts)
    before, after = np.concatenate([[1.0], x])[at[starts]], x[at[ends]]
    return before, after, first + np.rint(centre).astype(np.int64)


def _bound_terms(learning_rates, distance, gradient_norm) -> tuple[float, float]:
    """The parts of the bound that fall and grow with the scale of the rates."""
    check_float("distance", distance, above=0)
    check_float("gradient_norm", gradient_norm, above=0)
    rates = _check_rates(learning_rates)
    rates = rates[: np.flatnonzero(rates)[-1] + 1]
    rest = np.cumsum(rates[::-1])[::-1]
    squares = np.cumsum(rates[::-1] ** 2)[::-1]
    spread = np.sum(rates[:-1] / rest[1:] * squares[:-1] / rest[:-1])
    noise_term = gradient_norm**2 / 2 * (squares[0] / rest[0] + spread)
    return distance**2 / (2 * float(rest[0])), float(noise_term)


def _check_rates(learning_rates) -> np.ndarray:
    need = "an array of one rate per update, finite and >= 0, some above 0"
    rates = as_floats(learning_rates)
    ok = rates.ndim == 1 and np.all((rates >= 0) & np.isfinite(rates)) and np.any(rates)
    check(ok, "learning_rates", learning_rates, need)
    return rates


def _check_steps(steps, total: int) -> np.ndarray:
    """Whole numbers, which a table may hold as floats."""
    numbers = as_floats(steps)
    is_one = (numbers >= 1) & (numbers <= total) & (numbers == np.rint(numbers))
    need = f"whole numbers from 1 to the {total} learning rates"
    check(numbers.size > 0 and np.all(is_one), "steps", steps, need)
    return numbers.astype(np.int64)


def _check_curves(curves) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    need = "at least one (learning_rates, steps, losses), in a list"
    check(isinstance(curves, Sequence) and len(curves) > 0, "curves", curves, need)
    for curve in curves:
        ok = isinstance(curve, Sequence) and len(curve) == 3
        check(ok, "curves", curve, "(learning_rates, steps, losses) for each run")
        rates = _check_rates(curve[0])
        steps = _check_steps(curve[1], len(rates))
        check(steps.ndim == 1, "steps", steps, "a list")
        losses = as_floats(curve[2])
        need = f"of shape {steps.shape}"
        check(losses.shape == steps.shape, "losses", losses.shape, need)
        bad = np.flatnonzero(~np.isfinite(losses))
        where = [f"{losses[i]} at step {steps[i]}" for i in bad[:1]]
        check(not where, "losses", ", ".join(where), "finite numbers")
        yield rates, steps, losses


def _as_cooldowns(averages) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The cooldown that each average equals."""
    for gamma, curve in averages:
        check_float("gamma", gamma, at_least=0)
        ((rates, steps, losses),) = _check_curves([curve])
        for n, loss in zip(steps, losses, strict=True):
            falling = 1 - (np.arange(n) / n) ** (gamma + 1)
            yield rates[:n] * falling, np.array([n]), np.array([loss])


def _check_identified(curves, peak_value: float) -> None:
    """Refuses curves that leave a part of the law to guesswork, and names the cure."""
    logged = sum(steps.size for _, steps, _ in curves)
    check(logged >= 10, "the number of losses in curves", logged, "at least 10")
    span = max(float(np.max(steps) / np.min(steps)) for _, steps, _ in curves)
    need = "at least 2 in one. Missing is a longer stable run, logged from early on"
    check(span >= 2, "the ratio of last to first step of curves", round(span, 2), need)
    # The most that a rate fell within the last fifth of the way to a logged step.
    fall = max(
        float(np.max(rates[int(0.8 * n) : n]) - rates[n - 1]) / peak_value
        for rates, steps, _ in curves
        for n in steps
    )
    need = (
        "at least 0.3 of the peak within a fifth of the steps done: a slow fall, as of "
        "a cosine, cannot be told from slow progress. Missing is a short cooldown "
        "branched off the stable run, with losses logged in it and at its end"
    )
    check(fall >= 0.3, "the sharpest fall of the rate in curves", round(fall, 2), need)
