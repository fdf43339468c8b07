"""One stable trunk and its branches beside cosine runs of the same budgets."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from .checkpoints import write_json
from .config import (
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    UserError,
    Verb,
    require,
)
from .data import Text, load_text
from .plan import curve, fit_law, plan_cooldowns
from .progress import bits_per_byte, read_evaluations, say
from .report import draw, write_table
from .runs import branch_config, versions
from .train import run_to_end
from .trainer import check_devices


@dataclass(frozen=True)
class Planned:
    """A run to make: from nothing, or from a step of the trunk."""

    name: str
    schedule: str
    config: Config
    first_step: int = 0

    @property
    def steps(self) -> int:
        return self.config.steps - self.first_step


@dataclass(frozen=True)
class Compare(Verb):
    """One stable trunk, cooldowns branched off it, cosine runs, and a report."""

    # Folder of all runs and the report; the same command goes on where it stopped.
    out: Path = Path("runs/compare")
    # Steps; each is reached by a branch and by a cosine run.
    budgets: tuple[int, ...] = (400, 600, 800)
    # Part of a budget that its branch spends cooling down.
    cooldown_share: float = 0.36
    # Steps of every cooldown instead, at least: each begins at the snapshot before.
    # auto: only the first has its share, and the law that it shows decides the others.
    steps: int | Literal["auto"] | None = None
    # Peak rate of each cosine run; --peak is that of the trunk and its branches.
    cosine_peaks: tuple[float, ...] = (6e-3, 6e-3, 6e-3)
    # Peak rate of the schedule-free run, which has the largest budget.
    schedule_free_peak: float = 1e-2
    # Fixes the initial weights and every batch.
    seed: int = 0
    # The model of all runs.
    model: ModelConfig = ModelConfig(width=96, depth=3, heads=2)
    # Their data.
    data: DataConfig = DataConfig(batch_size=8, validation_sequences=256)
    # Their optimizer.
    optimizer: OptimizerConfig = OptimizerConfig(peak=4e-3, warmup_steps=40)
    # Their loop.
    loop: LoopConfig = LoopConfig(eval_every=64, save_every=64, snapshot_every=32)

    def __post_init__(self):
        require(bool(self.budgets), "--budgets needs at least one number of steps.")
        require(
            all(a < b for a, b in itertools.pairwise(self.budgets)),
            f"--budgets must grow, got {' '.join(map(str, self.budgets))}.",
        )
        require(
            0 < self.cooldown_share <= 1,
            f"--cooldown-share must be in (0, 1], got {self.cooldown_share}.",
        )
        require(
            not isinstance(self.steps, int) or self.steps >= 1,
            f"--steps must be at least 1, or auto, got {self.steps}.",
        )
        require(
            self.steps != "auto" or self.budgets[0] > self._first_snapshot,
            f"--steps auto needs budgets above {self._first_snapshot}, the first "
            f"snapshot after the warmup, got {self.budgets[0]}.",
        )
        require(
            len(self.cosine_peaks) == len(self.budgets),
            f"--cosine-peaks needs one rate for each of the {len(self.budgets)} "
            f"budgets, got {len(self.cosine_peaks)}.",
        )
        require(
            self.optimizer.cooldown_steps == 0 and self.optimizer.optimizer == "adamw",
            "compare plans the optimizer and its cooldowns itself: leave out "
            "--optimizer and --cooldown-steps.",
        )

    def __call__(self) -> None:
        check_devices(self.loop)
        text = load_text(self.data)
        starts = {budget: self._branch_step(budget) for budget in self.budgets}
        seen = max(starts.values())
        planned = list(self.plan(starts, seen))
        if self.steps == "auto":
            self._make(planned[:2], text)  # the trunk and the first branch
            starts |= self._advised_steps(seen)
            planned = list(self.plan(starts, max(seen, *starts.values())))
        self._make(planned, text)
        if jax.process_index() == 0:
            report = self.report(planned, text)
            write_json(self.out / "report.json", report)
            write_table(self.out / "report.md", report, self.predictions())
            draw(self.out, {run.name: run.schedule for run in planned})
        say(f"{self.out}/report.md, report.png and report.json are written.")

    def plan(self, starts: dict[int, int], trunk_steps: int) -> Iterator[Planned]:
        """The trunk, its branches, the cosine runs, and the schedule-free run.

        `starts` has, for each budget, the step at which its branch leaves the trunk.
        """
        trunk = self._config(trunk_steps)
        yield Planned("trunk", "stable", trunk)
        for budget, start in starts.items():
            branch = branch_config(trunk, start, budget - start)
            yield Planned(f"wsd-{budget}", "wsd", branch, start)
        for budget, peak in zip(self.budgets, self.cosine_peaks, strict=True):
            cooldown_steps = budget - self.optimizer.warmup_steps
            cosine = self._config(
                budget, peak=peak, cooldown_steps=cooldown_steps, shape="cosine"
            )
            yield Planned(f"cosine-{budget}", "cosine", cosine)
        free = self._config(
            max(self.budgets), peak=self.schedule_free_peak, optimizer="schedule_free"
        )
        yield Planned("schedule-free", "schedule_free", free)

    def _make(self, planned: Sequence[Planned], text: Text) -> None:
        for i, run in enumerate(planned, start=1):
            say(f"Run {i} of {len(planned)}: {run.name}")
            branch_point = (self.out / "trunk", run.first_step)
            run_to_end(
                self.out / run.name,
                run.config,
                text,
                branch_point if run.first_step else None,
            )

    def report(self, planned: list[Planned], text: Text) -> dict[str, Any]:
        """What report.json holds; all but its seconds is the same after a restart."""
        rows, seconds = [], 0.0
        for run in planned:
            last = read_evaluations(self.out / run.name)[-1]
            seconds += last["seconds"]
            row = functools.partial(self._row, run, text.bytes_per_token)
            rows.append(row(run.name, run.steps, last["val_loss"]))
            if "val_loss_ema" in last:
                rows.append(row(f"{run.name}, averaged", 0, last["val_loss_ema"]))
        paid = {
            "branched": sum(
                r.steps for r in planned if r.schedule in ("stable", "wsd")
            ),
            "cosine": sum(r.steps for r in planned if r.schedule == "cosine"),
        }
        return {
            "runs": rows,
            "steps_paid": paid,
            "compute_ratio": paid["branched"] / paid["cosine"],
            "data": text.manifest(),
            "model": dataclasses.asdict(self.model),
            "seed": self.seed,
            "versions": versions(),
            "seconds": round(seconds, 1),
        }

    def predictions(self) -> dict[int, tuple[float, float]] | str:
        """Each branch's end, and half its 90 % interval, by a law of the first branch.

        Or why there is no such law.
        """
        trunk, first = self.out / "trunk", self.out / f"wsd-{self.budgets[0]}"
        try:
            law = fit_law(trunk, [first])
        except UserError as error:
            return str(error)
        ends = {}
        for budget in self.budgets:
            rates, steps, _ = curve(self.out / f"wsd-{budget}")
            low, high = law.predict_interval(rates, steps[-1])
            ends[budget] = float(low + high) / 2, float(high - low) / 2
        return ends

    def _row(
        self, run: Planned, bytes_per_token, name: str, steps: int, loss: float
    ) -> dict[str, Any]:
        return {
            "name": name,
            "schedule": run.schedule,
            "budget_steps": run.config.steps,
            "steps_trained": steps,
            "val_loss": loss,
            **bits_per_byte(loss, bytes_per_token),
            "dir": str(self.out / run.name),
        }

    def _branch_step(self, budget: int) -> int:
        """Where the branch of a budget leaves the trunk: at one of its snapshots."""
        every = self.loop.snapshot_every
        share = budget * self.cooldown_share
        length = self.steps if isinstance(self.steps, int) else share
        step = round(budget - length) // every * every
        require(
            step > 0,
            f"A budget of {budget} steps has no snapshot to branch from: lower "
            f"--cooldown-share, --steps or --snapshot-every ({every}).",
        )
        return step

    def _advised_steps(self, seen: int) -> dict[int, int]:
        """Where the later budgets leave the trunk by the law of the first branch.

        The trunk is seen as it was when that branch was made, so that a run which goes
        on decides the same.
        """
        trunk, every = self.out / "trunk", self.loop.snapshot_every
        law = fit_law(trunk, [self.out / f"wsd-{self.budgets[0]}"], until=seen)
        first, shape = self._first_snapshot, self.optimizer.shape
        rates = curve(trunk)[0][:first]

        def step_of(budget: int) -> int:
            lengths = [budget - step for step in range(first, budget, every)]
            plan = plan_cooldowns(law, rates, lengths, shape, total_steps=budget)
            return budget - plan.best

        return {budget: step_of(budget) for budget in self.budgets[1:]}

    @property
    def _first_snapshot(self) -> int:
        """The first after the warmup."""
        every = self.loop.snapshot_every
        return -(-max(self.optimizer.warmup_steps, 1) // every) * every

    def _config(self, steps: int, **changes) -> Config:
        optimizer = replace(self.optimizer, **changes)
        return Config(steps, self.seed, self.model, self.data, optimizer, self.loop)
