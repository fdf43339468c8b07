"""Weights merged from a stable run's snapshots, as a run that can be evaluated."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

import optax_wsd

from .checkpoints import Checkpoints
from .config import Config, ShapeName, UserError, Verb, require
from .data import load_text
from .optimizer import AVERAGE_WIDTHS
from .progress import Metrics, bits_per_byte, say, say_done
from .runs import find_step, name_parent, open_checkpoints, open_run, read_manifest
from .train import place_validation
from .trainer import Trainer, make_trainer


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
        manifest = read_manifest(folder)
        config = manifest["config"]
        text, trainer = load_text(config.data), make_trainer(config)
        checkpoints = open_checkpoints(folder, manifest)
        steps = _snapshots(checkpoints, config, step)
        last = -(-len(steps) // 2) if self.last is None else self.last
        name = f"last-{last}-{self.shape}" if self.ema is None else f"ema-{self.ema}"
        if self.ema is None:
            require(
                1 <= last <= len(steps),
                f"--last must be from 1 to {len(steps)}, the number of snapshots, "
                f"got {last}.",
            )
            steps = steps[-last:]
        params = self._merge(checkpoints, trainer, steps)
        state = checkpoints.restore(steps[-1], trainer.abstract)
        validation = place_validation(trainer, config, text)["val_loss"]
        before = float(trainer.evaluate(state["params"], validation))
        state["params"] = params
        out = self.out or folder.with_name(f"{folder.name}-{steps[-1]}-{name}")
        merged = replace(config, steps=steps[-1])
        parent = name_parent(out, (folder, steps[-1])) | {"merged": name}
        with open_run(out, merged, text, parent) as run:
            loss = float(trainer.evaluate(params, validation))
            metrics = Metrics(out, steps[-1] - 1, config.loop.tensorboard)
            line = {"step": steps[-1], "val_loss": loss}
            line |= bits_per_byte(loss, text.bytes_per_token)
            metrics.write(line)
            metrics.close()
            run.checkpoints.save(steps[-1], state)
        say(f"{folder} had val_loss {before:.4f} at step {steps[-1]}.")
        say_done(out, line)

    def _merge(self, checkpoints: Checkpoints, trainer: Trainer, steps: list[int]):
        states = (checkpoints.restore(step, trainer.abstract) for step in steps)
        gammas = {n: optax_wsd.gamma_from_width(w) for n, w in AVERAGE_WIDTHS.items()}
        try:
            if self.ema is None:
                shape = getattr(optax_wsd.shapes, self.shape)
                weights = optax_wsd.merge_weights(len(steps), shape)
                return optax_wsd.merge_params((s["params"] for s in states), weights)
            stored = [(step, gamma) for step in steps for gamma in gammas.values()]
            gamma = optax_wsd.gamma_from_width(self.ema)
            weights = optax_wsd.post_hoc_ema_weights(stored, gamma, steps[-1])
            averages = (
                trainer.weights(s, which=name) for s in states for name in gammas
            )
            return optax_wsd.merge_params(averages, weights)
        except ValueError as error:  # of optax_wsd, about a number given here
            raise UserError(str(error)) from error


def _snapshots(checkpoints: Checkpoints, config: Config, last: int | None) -> list[int]:
    """The steps of the equally spaced snapshots, up to a last one."""
    every = config.loop.snapshot_every
    steps = [step for step in checkpoints.steps() if step % every == 0]
    steps = [step for step in steps if last is None or step <= last]
    require(
        bool(steps), f"{checkpoints.folder} has no snapshots (every {every} steps)."
    )
    return steps
