"""What a cooldown of each length would reach if it were started now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import optax_wsd
from optax_wsd import laws

from .config import ShapeName, UserError, require
from .progress import read_metrics, say
from .report import draw_plan
from .runs import finished_branches, read_manifest
from .signals import Signals


@dataclass(frozen=True)
class Plan:
    """Predict what cooldowns of a trunk would reach, from the law of its loss."""

    # The trunk.
    run: Annotated[Path, tyro.conf.Positional]
    # Finished cooldowns to learn from; default: all of the trunk that lie beside it.
    branches: tuple[Path, ...] = ()
    # Lengths to compare; default: fractions of the steps done.
    lengths: tuple[int, ...] = ()
    shape: ShapeName = "one_minus_sqrt"
    distributed: bool = False

    def __call__(self, signals: Signals) -> None:
        law = fit_law(self.run, self.branches)
        rates, *_ = curve(self.run)
        plan = plan_cooldowns(law, rates, self.lengths, self.shape)
        say(f"{self.run} after {len(rates)} steps:")
        say("cooldown   ends at   predicted val_loss")
        for row in zip(plan.cooldown_steps, plan.total_steps, plan.losses, strict=True):
            advised = "   <- advised" if row[0] == plan.best else ""
            say("{:8d}  {:8d}   {:.4f}".format(*row) + advised)
        say(f"The law fits its curves within {law.residual:.4f} (root mean square).")
        draw_plan(self.run, plan)
        say(f"{self.run}/plan.png is written.")


def fit_law(trunk: Path, branches: Sequence[Path] = ()) -> laws.LossLaw:
    """The law of a trunk's loss, from its metrics and those of finished cooldowns."""
    curves = [curve(trunk)]
    curves += [curve(branch) for branch in branches or finished_branches(trunk)]
    try:
        return laws.fit_loss_law(curves)
    except ValueError as error:
        raise UserError(f"The law of {trunk} cannot be fitted: {error}") from error


def plan_cooldowns(
    law: laws.LossLaw, rates: np.ndarray, lengths: Sequence[int], shape: ShapeName
) -> laws.Cooldowns:
    """What cooldowns would reach that start after a trunk's updates of these rates."""
    if not lengths:
        parts = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
        lengths = sorted({max(1, round(part * len(rates))) for part in parts})
    try:
        shape_of = getattr(optax_wsd.shapes, shape)
        return laws.best_cooldown(law, rates, lengths, shape=shape_of)
    except ValueError as error:
        raise UserError(str(error)) from error


def advised_length(trunk: Path, step: int, shape: ShapeName) -> int:
    """The length of cooldown to start at a step, for `cooldown --steps auto`."""
    rates, *_ = curve(trunk)
    return plan_cooldowns(fit_law(trunk), rates[:step], (), shape).best


def curve(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rate of every update of a run, its trunk's included, and its losses."""
    manifest = read_manifest(folder)
    rates = [line["lr"] for line in read_metrics(folder) if "lr" in line]
    evaluations = [line for line in read_metrics(folder) if "val_loss" in line]
    require(bool(evaluations), f"{folder} has no evaluation yet.")
    steps = np.array([line["step"] for line in evaluations])
    losses = np.array([line["val_loss"] for line in evaluations])
    if manifest["parent"] is not None:
        before, *_ = curve(folder / manifest["parent"]["run"])
        rates = [*before[: manifest["parent"]["step"]], *rates]
    return np.asarray(rates), steps, losses
