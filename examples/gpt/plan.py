"""What a cooldown of each length would reach if it were started now."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

import optax_wsd
from optax_wsd import laws

from .checkpoints import write_json
from .config import Config, ShapeName, UserError, Verb, require
from .optimizer import AVERAGE_WIDTHS, stable_schedule
from .progress import read_metrics, say
from .report import draw_plan
from .runs import find_parent, finished_branches, read_manifest


@dataclass(frozen=True)
class Plan(Verb):
    """Predict what cooldowns of a trunk would reach, from the law of its loss.

    The law is written to RUN/law.json. From then on `cooldown --steps auto` goes by it,
    and the evaluations of the trunk, also while it trains, tell the loss after a
    cooldown of a fifth of the steps done.
    """

    # The trunk.
    run: Annotated[Path, tyro.conf.Positional]
    # Finished cooldowns to learn from; default: all of the trunk that lie beside it.
    branches: tuple[Path, ...] = ()
    # The law.json of a run of the same model, data and batch size: needs no branch.
    law: Path | None = None
    # Lengths to compare; default: fractions of the steps done.
    lengths: tuple[int, ...] = ()
    # Shape of the cooldowns.
    shape: ShapeName = "one_minus_sqrt"

    def __post_init__(self):
        require(not (self.law and self.branches), "--law needs no --branches.")

    def __call__(self) -> None:
        branches = self.branches or finished_branches(self.run)
        law = read_law(self.law) if self.law else fit_law(self.run, branches)
        rates, *_ = curve(self.run)
        plan = plan_cooldowns(law, rates, self.lengths, self.shape)
        say(f"{self.run} after {len(rates)} steps:")
        say("cooldown   ends at   predicted val_loss, in 9 of 10 cases")
        for row in zip(*plan[:3], plan.widths, strict=True):
            mark = "   <- recommended" if row[0] == plan.best else ""
            say("{:8d}  {:8d}   {:.4f} +- {:.4f}".format(*row) + mark)
        say(reason(law, rates, plan))
        for branch in branches:
            branch_rates, steps, losses = curve(branch)
            low, high = law.predict_interval(branch_rates, steps[-1])
            say(
                f"{branch} reached {losses[-1]:.4f}; the law, which "
                f"{'does not know' if self.law else 'was fitted to'} it, says "
                f"{(low + high) / 2:.4f} +- {(high - low) / 2:.4f}."
            )
        if jax.process_index() > 0:
            return
        try:
            write_json(self.run / "law.json", law._asdict())
            draw_plan(self.run, plan, branches)
        except OSError as error:
            say(f"No law.json and plan.png: {error.strerror} in {self.run}.")
        else:
            say(f"{self.run}/law.json and plan.png are written.")


def fit_law(
    trunk: Path, branches: Sequence[Path] = (), until: int | None = None
) -> laws.LossLaw:
    """The law of a trunk's loss, from its metrics and those of finished cooldowns.

    The averages of its later half tell of a cooldown too, and may stand in for one.
    With `until` the trunk is seen as it was after so many steps.
    """
    rates, steps, losses = curve(trunk)
    until = int(steps[-1]) if until is None else until
    known = steps <= until
    curves = [(rates, steps[known], losses[known])]
    curves += [curve(branch) for branch in branches or finished_branches(trunk)]
    averages = {
        line["step"]: line["val_loss_ema"]
        for line in read_metrics(trunk)
        if "val_loss_ema" in line and until / 2 <= line["step"] <= until
    }
    every = -(-len(averages) // 32) or 1  # 32 at most, so that the fit stays fast
    averaged = rates, [*averages][::every], [*averages.values()][::every]
    gamma = optax_wsd.gamma_from_width(AVERAGE_WIDTHS["ema"])
    try:
        return laws.fit_loss_law(curves, [(gamma, averaged)] if averages else ())
    except ValueError as error:
        raise UserError(f"The law of {trunk} cannot be fitted: {error}") from error


def read_law(path: Path) -> laws.LossLaw:
    """A law that `plan` has written."""
    require(path.is_file(), f"There is no law in {path}.")
    try:
        law = laws.LossLaw(**json.loads(path.read_bytes()))
        return law._replace(spread=tuple(map(tuple, law.spread)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a law: {error}.") from error


def plan_cooldowns(
    law: laws.LossLaw,
    rates: np.ndarray,
    lengths: Sequence[int],
    shape: ShapeName,
    total_steps: int | None = None,
) -> laws.Cooldowns:
    """What cooldowns would reach after a trunk's updates of these rates.

    With total_steps the best one has the lowest loss. Without, it is the longest whose
    every further step gains at least as much as a step of the trunk does now.
    """
    if not lengths:
        parts = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
        lengths = sorted({max(1, round(part * len(rates))) for part in parts})
    shape_of = getattr(optax_wsd.shapes, shape)
    try:
        plan = laws.best_cooldown(
            law, rates, lengths, total_steps=total_steps, shape=shape_of
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if total_steps is not None:
        return plan
    each = -np.diff(plan.losses) / np.diff(plan.cooldown_steps)
    worth = int(np.append(each < step_of_trunk(law, rates), True).argmax())
    return plan._replace(best=min(plan.best, int(plan.cooldown_steps[worth])))


def step_of_trunk(law: laws.LossLaw, rates: np.ndarray) -> float:
    """What a step of a trunk gains now: the mean of its last fifth, by the law."""
    ends = np.array([-(-4 * len(rates) // 5), len(rates)])
    before, now = law.predict(rates, ends)
    return float((before - now) / max(np.diff(ends)[0], 1))


def reason(law: laws.LossLaw, rates: np.ndarray, plan: laws.Cooldowns) -> str:
    """Why `plan_cooldowns` recommends what it does."""
    i = int(np.flatnonzero(plan.cooldown_steps == plan.best)[0])
    trunk, lengths = 1e6 * step_of_trunk(law, rates), plan.cooldown_steps
    if i + 1 == len(lengths):
        return (
            f"{plan.best} steps are recommended, the longest asked for: each further "
            f"step gains more than one of the trunk does ({trunk:.1f} millionths of a "
            "nat). Ask for longer ones with --lengths."
        )
    more = plan.losses[i] - plan.losses[i + 1]
    each = 1e6 * more / (lengths[i + 1] - lengths[i])
    where = "inside" if abs(more) < max(plan.widths[i : i + 2]) else "outside"
    return (
        f"{plan.best} steps are recommended: from there to {lengths[i + 1]} one gains "
        f"{each:.1f} millionths of a nat, and one of the trunk {trunk:.1f}. The ends "
        f"differ by {more:+.4f}, {where} the interval."
    )


def recommended_length(trunk: Path, step: int, shape: ShapeName) -> int:
    """The length of cooldown to start at a step, for `cooldown --steps auto`."""
    path = trunk / "law.json"
    law = read_law(path) if path.exists() else fit_law(trunk)
    rates, *_ = curve(trunk)
    return plan_cooldowns(law, rates[:step], (), shape).best


def loss_if_cooled(folder: Path, config: Config, step: int) -> dict[str, float]:
    """What a fifth of the steps done, as a cooldown from here, would reach.

    By the law that `plan` has written to the run's folder; empty where there is none,
    and where it cannot be used, which is said and does not stop a run.
    """
    path = folder / "law.json"
    if not path.exists():
        return {}
    schedule = stable_schedule(config.optimizer, config.optimizer.peak)
    rates = np.asarray(schedule(np.arange(step)))
    length, shape = -(-step // 5), config.optimizer.shape
    try:
        plan = plan_cooldowns(read_law(path), rates, [length], shape)
    except (UserError, OSError) as error:
        say(f"No loss if cooled: {error}")
        return {}
    return {
        "val_loss_if_cooled": float(plan.losses[0]),
        "val_loss_if_cooled_plus_minus": float(plan.widths[0]),
    }


def curve(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rate of every update of a run, its trunk's included, and its losses."""
    parent, lines = read_manifest(folder)["parent"], read_metrics(folder)
    before = [] if parent is None else curve(find_parent(folder))[0][: parent["step"]]
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    known = [*before, *(rates[step] for step in sorted(rates) if step > len(before))]
    require(
        sorted(rates) == list(range(len(before) + 1, len(known) + 1)),
        f"{folder}/metrics.jsonl or that of its trunk was changed: steps are missing.",
    )
    losses = {n["step"]: n["val_loss"] for n in lines if "val_loss" in n}
    losses = {step: loss for step, loss in losses.items() if step <= len(known)}
    require(bool(losses), f"{folder} has no evaluation yet.")
    return np.asarray(known), np.array([*losses]), np.array([*losses.values()])
