"""Differences with their intervals, fits, and what they say: three verdicts."""

import dataclasses
from collections.abc import Iterable
from enum import Enum

import numpy as np
from scipy import stats

TIE = 0.005  # nats per byte: a difference within it decides nothing for a user


class Verdict(Enum):
    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not decided"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % interval."""

    mean: float
    error: float

    @property
    def low(self) -> float:
        return self.mean - self.error

    @property
    def high(self) -> float:
        return self.mean + self.error

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f}".replace("-", "−")


def interval(values: np.ndarray) -> Interval:
    """Student's t over the seeds; of one seed nothing is known."""
    count = len(values)
    if count < 2:
        return Interval(float(np.mean(values)), np.inf)
    quantile = stats.t.ppf(0.975, count - 1)
    error = quantile * np.std(values, ddof=1) / np.sqrt(count)
    return Interval(float(np.mean(values)), float(error))


def difference(ours: np.ndarray, other: np.ndarray) -> Interval:
    """Ours minus the other, paired by seed."""
    return interval(np.asarray(ours) - np.asarray(other))


def at_most(value: Interval, limit: float = 0.0) -> Verdict:
    """Whether the value is at most the limit: all of its interval, none, or some."""
    if value.high <= limit:
        return Verdict.HOLDS
    return Verdict.FAILS if value.low > limit else Verdict.OPEN


def at_least(value: Interval, limit: float = 0.0) -> Verdict:
    return at_most(Interval(-value.mean, value.error), -limit)


def within(value: Interval, margin: float = TIE) -> Verdict:
    """Whether the value is between -margin and margin."""
    return every([at_most(value, margin), at_least(value, -margin)])


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Holds where all hold, and does not hold where one does not."""
    found = set(verdicts)
    for verdict in (Verdict.FAILS, Verdict.OPEN):
        if verdict in found:
            return verdict
    return Verdict.HOLDS


def bottom(peaks, losses: np.ndarray) -> tuple[float, float]:
    """Peak and loss at the bottom of a parabola in log(peak) through the best three.

    At an end of the grid it is that end.
    """
    best = int(np.argmin(losses))
    if best in (0, len(peaks) - 1):
        return float(peaks[best]), float(losses[best])
    x = np.log(peaks[best - 1 : best + 2])
    square, slope, level = np.polyfit(x - x[1], losses[best - 1 : best + 2], 2)
    shift = -slope / (2 * square)
    return float(np.exp(x[1] + shift)), float(level + slope * shift / 2)


def power_law(steps, losses) -> tuple[float, float]:
    """The exponent of floor + b steps^-a, and its value at twice the last of steps."""
    logs = np.log(np.asarray(steps, float))

    def fit(a):
        columns = np.stack([np.ones_like(logs), np.exp(-a * logs)], axis=1)
        factors = np.linalg.lstsq(columns, losses, rcond=None)[0]
        return factors, float(np.sum((columns @ factors - losses) ** 2))

    a = min(np.linspace(0.05, 1.5, 59), key=lambda a: fit(a)[1])
    floor, factor = fit(a)[0]
    return float(a), float(floor + factor * (2 * steps[-1]) ** -a)
