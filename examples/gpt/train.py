"""The loop: trains a run to its end, measures, saves, and stops when it is told to."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from .checkpoints import Checkpoints
from .config import Config, UserError, require, with_changes
from .data import Text, training_batches, validation_batches
from .optimizer import plan_cooldown
from .plan import loss_if_cooled
from .progress import Line, Metrics, Printer, bits_per_byte, read_evaluations, say
from .runs import (
    Run,
    branch_changes,
    find_step,
    name_parent,
    open_checkpoints,
    open_run,
    read_manifest,
    read_tokenizer,
)
from .signals import Interrupted, Signals
from .trainer import State, Trainer, make_trainer

MOST_SKIPPED = 10  # updates left out in a row before the run stops after all


class DivergedError(Exception):
    """The loss or the gradient is no longer finite, or the loss has jumped."""


def run_to_end(
    folder: Path,
    config: Config,
    text: Text,
    branch_point: tuple[Path, int] | None = None,
) -> dict[str, Any]:
    """Makes a run, or goes on with it, to its last step; returns its last evaluation.

    Raises:
        UserError: the folder, the branch point or a checkpoint does not fit.
        Interrupted: a signal came; the run is saved and can go on.
        DivergedError: the loss is no longer finite, or has jumped; the checkpoints from
            before are intact.
    """
    vocabulary = max(config.model.vocabulary, text.vocabulary)
    config = with_changes(config, vocabulary=vocabulary)
    trainer, state, parent = make_trainer(config), None, None
    if branch_point is not None:
        trunk, at = branch_point
        manifest = read_manifest(trunk)
        changes = branch_changes(manifest, config, text)
        parent = name_parent(folder, branch_point) | {"changes": changes}
        if not Checkpoints(folder / "checkpoints").steps():
            checkpoints = open_checkpoints(trunk, manifest)
            checkpoints.keep(at)
            state = checkpoints.restore(at, trainer.abstract)
    with open_run(folder, config, text, parent) as run:
        found = run.checkpoints.restore_newest(trainer.abstract, say)
        if found is None:
            found = plan_cooldown(state or trainer.init(config.seed), config)
        step = int(found["step"])
        if step < config.steps:
            train(run, trainer, text, found)
            run.checkpoints.finish()
            if jax.process_count() > 1:  # a branch may start at the last step
                multihost_utils.sync_global_devices(f"{folder} is trained")
        return last_evaluation(run.folder)


class Loaded(NamedTuple):
    """A checkpoint and what it needs to be used."""

    config: Config
    trainer: Trainer
    state: State
    unit: str
    tokenizer: str | None


def load_run(name: str) -> Loaded:
    """RUN at its newest good step, or RUN@STEP."""
    folder, step = find_step(name)
    manifest = read_manifest(folder)
    trainer = make_trainer(manifest["config"])
    checkpoints = open_checkpoints(folder, manifest)
    if step is None:
        state = checkpoints.restore_newest(trainer.abstract, say)
    else:
        state = checkpoints.restore(step, trainer.abstract)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet.")
    tokenizer, unit = read_tokenizer(folder, manifest), manifest["data"]["unit"]
    return Loaded(manifest["config"], trainer, state, unit, tokenizer)


def train(run: Run, trainer: Trainer, text: Text, state: State) -> None:
    """The loop: one step is dispatched before the metrics of the last are read."""
    config, step, peak = run.config, int(state["step"]), run.config.optimizer.peak
    train_step = introduce(run, trainer, text, step)
    validation = place_validation(trainer, config, text)
    batches = training_batches(text, config.data, config.seed, step)
    recorder = Recorder(run, text, step, trainer.least_seconds(config))
    with Signals() as signals, recorder, Profile(run) as p:
        while step < config.steps:
            p.before(step, state)
            batch = trainer.place(next(batches))
            state, metrics = train_step(state, batch, np.float32(peak))
            recorder.dispatched(metrics)
            step += 1
            last, stopping = step == config.steps, signals.stop_at(step)
            if last or _is_due(step, config.loop.eval_every):
                recorder.evaluate(trainer, state, validation)
            saves = config.loop.save_every, config.loop.snapshot_every
            if last or stopping or _is_due(step, *saves):
                recorder.save(step, state)
            if stopping and not last:
                raise Interrupted(signals, f"{run.name} is saved at step {step}.")


def introduce(run: Run, trainer: Trainer, text: Text, step: int) -> Callable[..., Any]:
    """Says what will be trained on what, and returns the compiled step."""
    config, data = run.config, run.config.data
    sizes = [x.size for x in jax.tree.leaves(trainer.abstract["params"])]
    seen = data.batch_size * data.sequence_length * config.steps / len(text.train)
    say(f"{run.folder}: from step {step} to {config.steps}, {seen:.2g} epochs")
    for part in (text, text.mix):
        if part is not None:
            say(
                f"  {part.name}: {len(part.train):,} {part.unit} to train on, "
                f"{len(part.validation):,} held out"
            )
    started_at, devices = time.monotonic(), trainer.mesh.size
    train_step, size = trainer.compiled_step(data.batch_size, data.sequence_length + 1)
    say(
        f"  {sum(sizes):,} parameters on {devices} {jax.default_backend()} "
        f"device{'s' * (devices > 1)}, {size / 2**30:.2f} GiB each "
        f"(compiled in {time.monotonic() - started_at:.1f} s)"
    )
    return train_step


def place_validation(trainer: Trainer, config: Config, text: Text):
    """The batches of every evaluation on the devices, by the name of the loss."""
    texts = {"val_loss": text} | ({"val_loss_mix": text.mix} if text.mix else {})
    rows = {name: validation_batches(part, config.data) for name, part in texts.items()}
    return {name: trainer.place(part, axis=1) for name, part in rows.items()}


def _is_due(step: int, *periods: int) -> bool:
    return any(step % period == 0 for period in periods)


class Profile(ExitStack):
    """Profiles the steps of --profile, as far as they are reached."""

    def __init__(self, run: Run):
        super().__init__()
        self._folder = run.folder / "profile"
        self._steps, self._on = range(*(run.config.loop.profile or (0, 0))), False

    def before(self, step: int, state: State) -> None:
        """Starts or stops before a step of this number."""
        if (step in self._steps) != self._on:
            jax.block_until_ready(state)
            self._on = not self._on
            if self._on:
                jax.profiler.start_trace(str(self._folder))
                self.callback(jax.profiler.stop_trace)
            else:
                self.close()


class Recorder:
    """Writes and prints the metrics of a run, each step's while the next one runs."""

    def __init__(self, run: Run, text: Text, step: int, least_seconds: float):
        self._run, self._config, self._step = run, run.config, step
        self._bytes_per_token = text.bytes_per_token
        tokens = run.config.data.batch_size * run.config.data.sequence_length
        self._metrics = Metrics(run.folder, step, run.config.loop.tensorboard)
        self._printer = Printer(step, run.config.steps, tokens, least_seconds)
        self._running: dict[str, Any] | None = None
        self._recent, self._skipped = self._metrics.last_losses, 0

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception) -> None:
        self._metrics.close()

    def dispatched(self, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a step that may still be running."""
        self.finish_step()
        self._running = metrics

    def finish_step(self) -> None:
        """Waits for the metrics of the step that is running, if one is."""
        if self._running is None:
            return
        values = {name: float(value) for name, value in self._running.items()}
        self._running = None
        phase = self._config.phase(self._step)
        self._step += 1
        line = {"step": self._step, **values, "phase": phase}
        if not all(map(math.isfinite, values.values())):
            self._leave_out(line)
            return
        loss, most = values["loss"], self._config.loop.max_loss_jump
        if most and self._recent and loss > fmean(self._recent) + most:
            self._stop(
                f"step {self._step} has loss {loss:.4f}, more than --max-loss-jump "
                f"{most} above {fmean(self._recent):.4f}, the mean of those before"
            )
        self._recent.append(loss)
        self._skipped = 0
        self._metrics.write(line)
        self._printer.step(line, due=self._step % self._config.loop.log_every == 0)

    def _leave_out(self, line: Line) -> None:
        """Stops at a step that is not finite, or notes that it was left out."""
        what = "step {step} has loss {loss:.4f} and gradient norm {grad_norm:.4f}"
        self._skipped += 1
        if not self._config.optimizer.skip_nonfinite or self._skipped > MOST_SKIPPED:
            self._stop(what.format_map(line))
        say(f"{self._run.name}: {what.format_map(line)}: left out.")
        self._metrics.write({k: line[k] for k in ("step", "lr", "phase")})

    def _stop(self, what: str) -> NoReturn:
        self._run.checkpoints.finish()
        steps = self._run.checkpoints.steps(until=self._step)
        good = f"step {steps[-1]}" if steps else "none"
        raise DivergedError(
            f"{self._run.name}: {what}; the last good checkpoint: {good}."
        )

    def save(self, step: int, state: State) -> None:
        """Starts to save the state after the last step."""
        self.finish_step()
        with self._printer.uncounted():
            self._run.checkpoints.save(step, state)

    def evaluate(self, trainer: Trainer, state: State, validation) -> None:
        """Evaluates the weights after the last step.

        In a stable run the averaged weights too, and what a cooldown would reach.
        """
        self.finish_step()
        stable, losses = self._config.is_stable, {}
        with self._printer.uncounted():
            for which in ("raw", "ema") if stable else ("raw",):
                weights = trainer.weights(state, which=which)
                for name, batches in validation.items():
                    name += "_ema" * (which == "ema")
                    losses[name] = float(trainer.evaluate(weights, batches))
            if stable and jax.process_index() == 0:  # the one that writes the metrics
                losses |= loss_if_cooled(self._run.folder, self._config, self._step)
            line = {"step": self._step, **losses}
            line |= bits_per_byte(losses["val_loss"], self._bytes_per_token)
            self._metrics.write(line)
            self._printer.evaluation(line)


def last_evaluation(folder: Path) -> Line:
    evaluations = read_evaluations(folder)
    require(
        bool(evaluations),
        f"{folder} is trained, but its metrics.jsonl, which was deleted or changed, "
        "has no evaluation.",
    )
    return evaluations[-1]
