"""What the claims are written with: methods, losses over seeds, and their spread."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .engine import Lab, NotMeasuredError, Plan, Run
from .settings import Scale
from .specs import Spec

Name = TypeVar("Name")
Options = dict[str, Any]

ADAMW = {"name": "adamw", "b1": 0.9, "b2": 0.95, "weight_decay": 0.1}
SCHEDULE_FREE = {"name": "schedule_free", "b2": 0.99, "weight_decay": 0.1}
TIE = 0.005  # nats per byte: losses nearer than this are called equal


@dataclasses.dataclass(frozen=True)
class Finding:
    """A row of the table, and what the picture is drawn from."""

    ours: str
    verdict: str
    draw: Callable[[Any], None] | None = None  # on matplotlib axes


@dataclasses.dataclass
class Study:
    """The runs of a scale, for some seeds; losses come as arrays over the seeds."""

    lab: Lab | Plan
    scale: Scale
    seeds: range
    answered: int = 0  # seeds that had all the runs that were last asked for

    def losses(self, runs: Mapping[Name, Options]) -> dict[Name, np.ndarray]:
        """Validation losses of named runs, each an array over the seeds that have all.

        The same seed has the same initial weights and batches in every run, so that
        differences are paired.
        """
        by_seed = {s: [self._run(s, **r) for r in runs.values()] for s in self.seeds}
        columns = []
        for row in by_seed.values():
            try:
                columns.append(self.lab.losses(row))
            except NotMeasuredError:
                continue
        if not columns:
            raise NotMeasuredError("no seed has all runs")
        self.answered = len(columns)
        return dict(zip(runs, np.array(columns).T, strict=True))

    def _run(self, seed: int, **options) -> Run:
        base = {
            "steps": self.scale.steps,
            "model": self.scale.model,
            "data": self.scale.data,
            "optimizer": ADAMW,
        }
        return Run(seed=seed, **(base | options))

    # Schedules. The first update of a warmup is not lost, and the last of a cooldown
    # is one step above the end.

    def wsd(
        self, peak: float, total: int, cooldown: int, shape="one_minus_sqrt"
    ) -> Spec:
        return {
            "name": "wsd_schedule",
            **self._warmup(peak),
            "total_steps": total,
            "cooldown_steps": cooldown,
            "shape": shape,
        }

    def stable(self, peak: float) -> Spec:
        return self.wsd(peak, self.scale.steps, 0)

    def linear(self, peak: float, total: int) -> Spec:
        """Straight to zero, from the end of the warmup."""
        return self.wsd(peak, total, total - self.scale.warmup_steps, "linear")

    def cosine(self, peak: float, total: int, end: float = 0.0) -> Spec:
        return {
            "name": "warmup_cosine_decay_schedule",
            **self._warmup(peak),
            "decay_steps": total,
            "end_value": end * peak,
        }

    def multistep(self, peak: float, total: int) -> Spec:
        boundaries = [self.scale.at(0.8), self.scale.at(0.9)]
        return {
            "name": "multistep_schedule",
            **self._warmup(peak),
            "boundaries": [b * total // self.scale.steps for b in boundaries],
        }

    def wsds(self, peak: float, ends: list[int], cooldown: int) -> Spec:
        lengths = {"end_steps": ends, "cooldown_steps": cooldown}
        return {"name": "wsds_schedule", **self._warmup(peak), **lengths}

    def inverse_sqrt(self, peak: float, offset: int) -> Spec:
        warmup = self._warmup(peak)
        return {"name": "inverse_power_schedule", **warmup, "offset_steps": offset}

    def infinite(self, peak: float, constant: float) -> Spec:
        return {
            "name": "infinite_schedule",
            **self._warmup(peak),
            "constant_value": constant,
            "transition_steps": self.scale.at(0.5),
        }

    def cooled(self, schedule: Spec, start: int, cooldown: int) -> Spec:
        return {
            "name": "cooldown_schedule",
            "schedule": schedule,
            "start_step": start,
            "cooldown_steps": cooldown,
        }

    def rewarmed(self, peak: float, total: int) -> Spec:
        """A cosine to a tenth, and the same once more."""
        cosine = self.cosine(peak, total, 0.1)
        twice = {"schedules": [cosine, cosine], "boundaries": [total]}
        return {"name": "join_schedules", **twice}

    def _warmup(self, peak: float) -> Spec:
        steps = self.scale.warmup_steps
        start = peak / (steps + 1)
        return {"peak_value": peak, "warmup_steps": steps, "init_value": start}


def optimum(peaks, losses: np.ndarray) -> tuple[float, float]:
    """Peak and loss at the bottom of a parabola in log(peak) through the best three.

    At an end of the grid it is that end.
    """
    best = int(np.argmin(losses))
    if best in (0, len(peaks) - 1):
        return float(peaks[best]), float(losses[best])
    near = slice(best - 1, best + 2)
    curve = np.polynomial.Polynomial.fit(np.log(peaks[near]), losses[near], 2)
    bottom = float(curve.deriv().roots()[0].real)
    return float(np.exp(bottom)), float(curve(bottom))


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds, with a sign: for differences."""
    sd = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.4f}{sd}"


def level(values: np.ndarray) -> str:
    return spread(values).lstrip("+")


def differs(values: np.ndarray) -> bool:
    """Whether a paired difference is more than twice its standard error, or a tie."""
    if len(values) < 2:
        return bool(abs(values[0]) > TIE)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return bool(abs(np.mean(values)) > 2 * error)
