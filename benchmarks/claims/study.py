"""What the claims are written with: methods, tuned losses, findings."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from .engine import Lab, Run
from .specs import Spec
from .verdicts import Verdict, bottom

Name = TypeVar("Name")
Options = dict[str, Any]

SCHEDULE_FREE = {"name": "schedule_free", "b2": 0.99, "weight_decay": 0.1}
WIDENINGS = 4  # rungs added to a grid at most


@dataclasses.dataclass(frozen=True)
class Grid:
    """A method at every setting of a grid: tuned on one text, reported on another."""

    # Settings, in order, and the losses [seeds, (tune, report)] at each.
    losses: dict[Any, np.ndarray]

    @property
    def best(self) -> Any:
        return min(self.losses, key=lambda key: self.losses[key][:, 0].mean())

    @property
    def loss(self) -> np.ndarray:
        """The reported losses of the best setting, over the seeds."""
        return self.losses[self.best][:, 1]

    @property
    def at_edge(self) -> bool:
        return len(self.losses) > 1 and self.best in (
            min(self.losses),
            max(self.losses),
        )

    def __len__(self) -> int:
        return len(self.losses)

    def optima(self) -> np.ndarray:
        """For every seed the log of the peak at the bottom of its parabola."""
        peaks = sorted(self.losses)
        columns = np.array([self.losses[peak][:, 0] for peak in peaks]).T
        return np.log([bottom(peaks, column)[0] for column in columns])


def best(grids: Iterable[Grid]) -> Grid:
    """The one that is best on the text for tuning."""
    return min(grids, key=lambda grid: grid.losses[grid.best][:, 0].mean())


@dataclasses.dataclass(frozen=True)
class Finding:
    """A row of the table, and what the picture is drawn from."""

    parts: dict[str, Verdict]  # what the claim says, sentence by sentence
    figures: list[str]
    # What each side was chosen from: shown with the peak and the number of settings.
    sides: Mapping[str, Iterable[Grid]] = dataclasses.field(default_factory=dict)
    draw: Callable[[Any], None] | None = None  # on matplotlib axes

    @property
    def found(self) -> str:
        """The verdicts in words, also the picture's title."""
        return "; ".join(f"{text}: {said.value}" for text, said in self.parts.items())

    @property
    def tuning(self) -> str:
        """The setting of each side, and of how many it is the best."""
        sides = "; ".join(_tuning(name, list(g)) for name, g in self.sides.items())
        return f"Best peaks, and of how many settings: {sides}."


def _tuning(name: str, grids: list[Grid]) -> str:
    chosen = best(grids)
    edge = ", at the end of its grid" if chosen.at_edge else ""
    return f"{name}: {chosen.best:g} of {sum(map(len, grids))}{edge}"


@dataclasses.dataclass(frozen=True)
class Claim:
    number: int
    name: str
    text: str
    source: str
    trust: str  # which size to believe where one holds and the other does not
    test: Callable[["Study"], Finding]


CLAIMS: dict[int, Claim] = {}


def claim(text: str, source: str, trust: str = ""):
    """Registers the test of a module cNN_NAME as claim NN."""

    def register(test: Callable[["Study"], Finding]):
        number, _, name = test.__module__.rpartition(".")[2][1:].partition("_")
        CLAIMS[int(number)] = Claim(int(number), name, text, source, trust, test)
        return test

    return register


class Study:
    """The runs of a scale, for some seeds; losses come as arrays over the seeds."""

    def __init__(self, lab: Lab, seeds: range):
        self.lab, self.scale, self.seeds = lab, lab.scale, seeds

    def losses(self, runs: Mapping[Name, Options]) -> dict[Name, np.ndarray]:
        """Losses of named runs, [seeds, (tune, report)].

        The same seed has the same initial weights and batches in every run, so that
        differences are paired.
        """
        usual: Options = {"steps": self.scale.steps}
        asked = [
            Run(self.scale, seed, **usual | options)
            for options in runs.values()
            for seed in self.seeds
        ]
        values = np.array(self.lab.losses(asked)).reshape(len(runs), -1, 2)
        return dict(zip(runs, values, strict=True))

    def tune(
        self,
        methods: Mapping[Name, Callable[[float], Options | list[Options]]],
        rungs: Iterable[int] | Mapping[Name, Iterable[int]] = (-1, 0, 1),
        beside: Callable[[Name], Any] = lambda name: None,
    ) -> dict[Name, Grid]:
        """Every method over its rungs of peaks, until its best is inside.

        Methods with the same `beside` are compared: all get as many settings as the one
        that needs most. Of a method that gives several runs the losses are added.
        """
        of: Any = rungs if isinstance(rungs, Mapping) else dict.fromkeys(methods, rungs)
        at = {name: sorted(of[name]) for name in methods}
        most = {name: len(at[name]) + WIDENINGS for name in methods}
        while True:
            runs = {
                (name, rung): make(self.scale.rung(rung))
                for name, make in methods.items()
                for rung in at[name]
            }
            grids = self._grids(runs)
            wanted = Counter()
            for name, grid in grids.items():
                edge = grid.at_edge and len(grid) < most[name]
                wanted[beside(name)] = max(wanted[beside(name)], len(grid) + edge)
            short = [name for name in methods if len(at[name]) < wanted[beside(name)]]
            if not short:
                return grids
            for name in short:
                below = sum(peak < grids[name].best for peak in grids[name].losses)
                low = below < len(at[name]) - 1 - below
                at[name] += [min(at[name]) - 1 if low else max(at[name]) + 1]

    def _grids(self, runs: Mapping[tuple[Name, int], Any]) -> dict[Name, Grid]:
        parts = {key: r if isinstance(r, list) else [r] for key, r in runs.items()}
        found = self.losses(
            {(k, i): r for k, p in parts.items() for i, r in enumerate(p)}
        )
        grids = defaultdict(dict)
        for (name, rung), part in parts.items():
            total = sum(found[(name, rung), i] for i in range(len(part)))
            grids[name][self.scale.rung(rung)] = total
        return {name: Grid(losses) for name, losses in grids.items()}

    def headline(self) -> dict[str, Grid]:
        """The usual schedules at the reference length: most claims look at them."""
        scale, total = self.scale, self.scale.steps
        fifth, two_fifths = scale.at(0.2), scale.at(0.4)
        schedules = {
            "constant": self.constant,
            "WSD 20 %": lambda p: self.wsd(p, total, fifth),
            "WSD 20 % linear": lambda p: self.wsd(p, total, fifth, "linear"),
            "WSD 40 %": lambda p: self.wsd(p, total, two_fifths),
            "cosine to 10 %": lambda p: self.cosine(p, total, 0.1),
            "cosine to zero": lambda p: self.cosine(p, total),
            "linear to zero": lambda p: self.linear(p, total),
        }
        # The longer a schedule falls the higher is its best peak.
        middle = {"constant": -2, "WSD 20 %": 0, "WSD 20 % linear": 0, "WSD 40 %": 0}
        return self.tune(
            {k: lambda p, s=s: {"schedule": s(p)} for k, s in schedules.items()},
            {k: range(middle.get(k, 1) - 1, middle.get(k, 1) + 2) for k in schedules},
        )

    # Schedules of the library, by the arguments that the claims vary.

    def wsd(
        self, peak: float, total: int, cooldown: int, shape="one_minus_sqrt"
    ) -> Spec:
        spec = {"name": "wsd_schedule", "peak_value": peak, "total_steps": total}
        return spec | {"cooldown_steps": cooldown, "shape": shape}

    def constant(self, peak: float) -> Spec:
        return self.wsd(peak, self.scale.steps, 0)

    def linear(self, peak: float, total: int) -> Spec:
        """Straight to zero, from the end of the warmup."""
        return self.wsd(peak, total, total - self.scale.warmup_steps, "linear")

    def cosine(self, peak: float, total: int, end: float = 0.0) -> Spec:
        spec = {"name": "warmup_cosine_decay_schedule", "peak_value": peak}
        return spec | {"decay_steps": total, "end_value": end * peak}

    def multistep(self, peak: float, total: int) -> Spec:
        boundaries = [self.scale.chunks(part * total) for part in (0.8, 0.9)]
        spec = {"name": "multistep_schedule", "peak_value": peak}
        return spec | {"boundaries": boundaries}

    def wsds(self, peak: float, ends: list[int], cooldown: int) -> Spec:
        spec = {"name": "wsds_schedule", "peak_value": peak}
        return spec | {"end_steps": ends, "cooldown_steps": cooldown}

    def inverse_sqrt(self, peak: float, offset: int) -> Spec:
        spec = {"name": "inverse_power_schedule", "peak_value": peak}
        return spec | {"offset_steps": offset}

    def infinite(self, peak: float, constant: float) -> Spec:
        spec = {"name": "infinite_schedule", "peak_value": peak}
        lengths = {"transition_steps": self.scale.at(0.5)}
        return spec | {"constant_value": constant} | lengths

    def cooled(self, schedule: Spec, start: int, cooldown: int) -> Spec:
        spec = {"name": "cooldown_schedule", "schedule": schedule}
        return spec | {"start_step": start, "cooldown_steps": cooldown}

    def free(self, peak: float, steps: int, numbers: Options, cooldown=0) -> Options:
        """A schedule-free run, which sees its end only if it is given a cooldown."""
        schedule = self.wsd(peak, self.scale.steps, cooldown)
        optimizer = SCHEDULE_FREE | numbers
        return {"schedule": schedule, "steps": steps, "optimizer": optimizer}

    def rewarmed(self, peak: float, total: int) -> Spec:
        """A cosine to a tenth, and the same once more."""
        cosine = self.cosine(peak, total, 0.1)
        spec = {"name": "join_schedules", "schedules": [cosine, cosine]}
        return spec | {"boundaries": [total]}
