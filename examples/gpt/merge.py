"""Weights merged from a stable run's snapshots, as a run that can be evaluated."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import tyro

import optax_wsd

from .checkpoints import Checkpoints
from .config import ShapeName, UserError, Verb, require
from .data import load_text
from .optimizer import AVERAGE_WIDTHS
from .progress import bits_per_byte, say, say_done, write_metrics
from .runs import find_step, name_parent, open_run, read_manifest
from .train import load_run, place_validation


@dataclass(frozen=True)
class Merge(Verb):
    """Merge snapshots of a run: a cooldown, or an average, without any training."""

    # The run, or RUN@STEP to merge snapshots up to a step.
    run: Annotated[str, tyro.conf.Positional]
    # Number of newest snapshots, merged as a cooldown over them would; default: half of
    # all there are.
    last: int | None = None
    # Shape of that cooldown; linear is the mean of the snapshots.
    shape: ShapeName = "linear"
    # Rebuild instead the power average of this width, relative to the run.
    ema: float | None = None
    # Default: beside the run.
    out: Path | None = None

    def __call__(self) -> None:
        folder, step = find_step(self.run)
        config = read_manifest(folder)["config"]
        until = math.inf if step is None else step
        there = Checkpoints(folder / "checkpoints").steps(until)
        every = config.loop.snapshot_every
        steps = [step for step in there if step % every == 0]
        require(bool(steps), f"{self.run} has no snapshots (every {every} steps).")
        last = -(-len(steps) // 2) if self.last is None else self.last
        name = f"last-{last}-{self.shape}" if self.ema is None else f"ema-{self.ema}"
        if self.ema is None:
            count = f"{len(steps)}, the number of snapshots"
            good = 1 <= last <= len(steps)
            require(good, f"--last must be from 1 to {count}, got {last}.")
            steps = steps[-last:]
        params, end = self._merge(folder, steps), steps[-1]
        _, trainer, state = load_run(f"{folder}@{end}")
        text = load_text(config.data)
        validation = place_validation(trainer, config, text)["val_loss"]
        both = state["params"], params
        before, loss = (float(trainer.evaluate(w, validation)) for w in both)
        line = {"step": end, "val_loss": loss, "seconds": 0.0}
        line |= bits_per_byte(loss, text.bytes_per_token)
        out = self.out or folder.with_name(f"{folder.name}-{end}-{name}")
        parent = name_parent(out, (folder, end)) | {"merged": name}
        with open_run(out, replace(config, steps=end), text, parent) as run:
            if jax.process_index() == 0:
                write_metrics(out, [line])
            run.checkpoints.save(end, state | {"params": params})
        say(f"{folder} had val_loss {before:.4f} at step {end}.")
        say_done(out, line)

    def _merge(self, folder: Path, steps: list[int]):
        runs = (load_run(f"{folder}@{step}") for step in steps)
        gammas = {n: optax_wsd.gamma_from_width(w) for n, w in AVERAGE_WIDTHS.items()}
        try:
            if self.ema is None:
                shape = getattr(optax_wsd.shapes, self.shape)
                weights = optax_wsd.merge_weights(len(steps), shape)
                params = (state["params"] for _, _, state in runs)
                return optax_wsd.merge_params(params, weights)
            stored = [(step, gamma) for step in steps for gamma in gammas.values()]
            gamma = optax_wsd.gamma_from_width(self.ema)
            weights = optax_wsd.post_hoc_ema_weights(stored, gamma, steps[-1])
            averages = (
                trainer.weights(s, which=name)
                for _, trainer, s in runs
                for name in gammas
            )
            return optax_wsd.merge_params(averages, weights)
        except ValueError as error:  # of optax_wsd, about a number given here
            raise UserError(str(error)) from error
