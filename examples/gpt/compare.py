"""One stable trunk and its branches beside cosine runs of the same budgets."""

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
from .runs import branch_config
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
    cooldown_share: float = 0.4
    # Steps of every cooldown instead, at least: each begins at the snapshot before.
    # auto: only the first has its share, and the law that it shows decides the others.
    steps: int | Literal["auto"] | None = None
    # Peak rate of the cosine runs; --peak is that of the trunk and its branches.
    cosine_peak: float = 6e-3
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
    loop: LoopConfig = LoopConfig(eval_every=40, save_every=80, snapshot_every=40)

    def __post_init__(self):
        growing = [*self.budgets] == sorted(set(self.budgets)) != []
        require(growing, f"--budgets must be steps that grow, got {self.budgets}.")
        require(
            self.steps != "auto" or self.budgets[0] > self._first_snapshot,
            f"--steps auto needs budgets above {self._first_snapshot}, the first "
            f"snapshot after the warmup, got {self.budgets[0]}.",
        )
        planned = self.optimizer.optimizer, self.optimizer.cooldown_steps
        need = "compare plans --optimizer and --cooldown-steps: leave them out."
        require(planned == ("adamw", 0), need)

    def __call__(self) -> None:
        check_devices(self.loop)
        text = load_text(self.data)
        starts = {budget: self._branch_step(budget) for budget in self.budgets}
        seen = max(starts.values())
        planned = list(self.plan(starts, seen))
        if self.steps == "auto":
            self._make(planned[:2], text)  # the trunk and the first branch
            starts |= self._recommended_steps(seen)
            planned = list(self.plan(starts, max(seen, *starts.values())))
        self._make(planned, text)
        if jax.process_index() == 0:
            report = self.report(planned, text)
            write_json(self.out / "report.json", report)
            write_table(self.out / "report.md", report)
            draw(self.out, {run.name: run.schedule for run in planned})
        say(f"{self.out}/report.md, report.png and report.json are written.")

    def plan(self, starts: dict[int, int], trunk_steps: int) -> Iterator[Planned]:
        """All runs; `starts` has the step at which each budget's branch begins."""
        trunk = self._config(trunk_steps)
        yield Planned("trunk", "stable", trunk)
        for budget, start in starts.items():
            branch = branch_config(trunk, start, budget - start)
            yield Planned(f"wsd-{budget}", "wsd", branch, start)
        for budget in self.budgets:
            fall = budget - self.optimizer.warmup_steps
            changes = {"peak": self.cosine_peak, "shape": "cosine"}
            cosine = self._config(budget, cooldown_steps=fall, **changes)
            yield Planned(f"cosine-{budget}", "cosine", cosine)
        changes = {"peak": self.schedule_free_peak, "optimizer": "schedule_free"}
        free = self._config(self.budgets[-1], **changes)
        yield Planned("schedule-free", "schedule_free", free)

    def _make(self, planned: Sequence[Planned], text: Text) -> None:
        for i, run in enumerate(planned, start=1):
            say(f"Run {i} of {len(planned)}: {run.name}")
            at = (self.out / "trunk", run.first_step) if run.first_step else None
            run_to_end(self.out / run.name, run.config, text, at)

    def report(self, planned: list[Planned], text: Text) -> dict[str, Any]:
        """What report.json holds."""
        rows, kinds = [], {"branched": ("stable", "wsd"), "cosine": ("cosine",)}
        paid = {
            kind: sum(run.steps for run in planned if run.schedule in schedules)
            for kind, schedules in kinds.items()
        }
        predicted = self.predictions()
        for run in planned:
            last = read_evaluations(self.out / run.name)[-1]
            ends = {run.name: "val_loss", f"{run.name}, averaged": "val_loss_ema"}
            for name, key in ends.items():
                if key in last:
                    row = {
                        "name": name,
                        "schedule": run.schedule,
                        "budget_steps": run.config.steps,
                        "steps_trained": run.steps if name == run.name else 0,
                        "val_loss": last[key],
                        "predicted": predicted.get(name),
                    }
                    rows.append(row | bits_per_byte(last[key], text.bytes_per_token))
        return {
            "runs": rows,
            "steps_paid": paid,
            "compute_ratio": paid["branched"] / paid["cosine"],
            "data": text.manifest(),
        }

    def predictions(self) -> dict[str, tuple[float, float]]:
        """Where each branch ends, and half its 90 % interval, by a law of the first."""
        branches = [self.out / f"wsd-{budget}" for budget in self.budgets]
        try:
            law = fit_law(self.out / "trunk", branches[:1])
        except UserError as error:
            say(f"{error}")
            return {}
        ends = {}
        for branch in branches:
            rates, steps, _ = curve(branch)
            low, high = law.predict_interval(rates, steps[-1])
            ends[branch.name] = float(low + high) / 2, float(high - low) / 2
        return ends

    def _branch_step(self, budget: int) -> int:
        """Where the branch of a budget leaves the trunk: at one of its snapshots."""
        every, share = self.loop.snapshot_every, budget * self.cooldown_share
        length = self.steps if isinstance(self.steps, int) else share
        step = round(budget - length) // every * every if 0 < length < budget else 0
        require(
            step > 0,
            f"A budget of {budget} steps has no snapshot before a cooldown of "
            f"{length:g}: change --cooldown-share, --steps or --snapshot-every.",
        )
        return step

    def _recommended_steps(self, seen: int) -> dict[int, int]:
        """Where the later budgets leave the trunk by the law of the first branch.

        The trunk is seen as it was when that branch was made, so that a run which goes
        on decides the same.
        """
        trunk, every = self.out / "trunk", self.loop.snapshot_every
        law = fit_law(trunk, [self.out / f"wsd-{self.budgets[0]}"], until=seen)
        first, shape = self._first_snapshot, self.optimizer.shape
        rates, starts = curve(trunk)[0][:first], {}
        for budget in self.budgets[1:]:
            lengths = [budget - step for step in range(first, budget, every)]
            plan = plan_cooldowns(law, rates, lengths, shape, total_steps=budget)
            starts[budget] = budget - plan.best
        return starts

    @property
    def _first_snapshot(self) -> int:
        """The first after the warmup."""
        every = self.loop.snapshot_every
        return -(-max(self.optimizer.warmup_steps, 1) // every) * every

    def _config(self, steps: int, **changes) -> Config:
        optimizer = replace(self.optimizer, **changes)
        return Config(steps, self.seed, self.model, self.data, optimizer, self.loop)
