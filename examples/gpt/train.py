"""The loop: trains a run to its end, and stops when it is told to."""

import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import optax_wsd

from . import runs
from .checkpoints import Checkpoints
from .config import Config, require, with_changes
from .data import Text, training_batches, validation_batches
from .processes import Interrupted, Signals
from .progress import Line, read_evaluations, say
from .recorder import Recorder
from .trainer import State, Trainer, make_trainer


def train(run: runs.Run, trainer: Trainer, text: Text, state: State) -> None:
    """The loop: one step is dispatched before the metrics of the last are read."""
    config, step, loop = run.config, int(state["step"]), run.config.loop
    train_step = introduce(run, trainer, text, step)
    validation = place_validation(trainer, config, text)
    batches = training_batches(text, config.data, config.seed, step)
    recorder, (start, stop) = Recorder(run, trainer, text, step), loop.profile or (0, 0)
    with Signals() as signals, recorder, ExitStack() as profile:
        while step < config.steps:
            if loop.profile and step in (start, stop):
                jax.block_until_ready(state)
                profile.close()
                if step == start:
                    trace = jax.profiler.trace(run.folder / "profile")
                    profile.enter_context(trace)
            batch = trainer.place(next(batches))
            peak = np.float32(config.optimizer.peak)
            state, metrics = train_step(state, batch, peak)
            recorder.step(metrics)
            step += 1
            last, stopping = step == config.steps, signals.stop_at(step)
            if last or step % loop.eval_every == 0:
                recorder.evaluate(state, validation)
            due = step % loop.save_every == 0 or step % loop.snapshot_every == 0
            if last or stopping or due:
                recorder.save(state)
            if stopping and not last:
                saved = f"{run.folder.name} is saved at step {step}."
                raise Interrupted(saved, signals.number)


def run_to_end(
    folder: Path,
    config: Config,
    text: Text,
    branch_point: tuple[Path, int] | None = None,
) -> Line:
    """Makes a run, or goes on with it, to its end; returns its last evaluation."""
    can_track = not config.loop.trackio or find_spec("trackio") is not None
    require(can_track, "--trackio needs its package: pip install trackio")
    vocabulary = max(config.model.vocabulary, text.vocabulary)
    config = with_changes(config, vocabulary=vocabulary)
    trainer, state, parent = make_trainer(config), None, None
    if branch_point is not None:
        trunk, at = branch_point
        manifest = runs.read_manifest(trunk)
        changes = runs.branch_changes(manifest, config, text)
        parent = runs.name_parent(folder, branch_point) | {"changes": changes}
        if not Checkpoints(folder / "checkpoints").steps():
            checkpoints = runs.open_checkpoints(trunk, manifest)
            checkpoints.keep(at)
            state = checkpoints.restore(at, trainer.abstract)
    with runs.open_run(folder, config, text, parent) as run:
        found = run.checkpoints.restore_newest(trainer.abstract)
        if found is None:
            found, start = state or trainer.init(config.seed), config.cooldown_start
            if start is not None:
                opt_state, steps = found["opt_state"], config.steps - start
                cooled = optax_wsd.start_cooldown(opt_state, steps, start_step=start)
                found = found | {"opt_state": cooled}
        if int(found["step"]) < config.steps:
            train(run, trainer, text, found)
            run.checkpoints.finish()
            if jax.process_count() > 1:  # a branch may start at the last step
                multihost_utils.sync_global_devices(f"{folder} is trained")
    evaluations = read_evaluations(folder)
    lost = f"{folder} is trained, but there is no evaluation in its metrics.jsonl."
    require(bool(evaluations), lost)
    return evaluations[-1]


def load_run(name: str) -> tuple[runs.Manifest, Trainer, State]:
    """RUN at its newest good step, or RUN@STEP."""
    folder, step = runs.find_step(name)
    manifest = runs.read_manifest(folder)
    trainer = make_trainer(manifest["config"])
    checkpoints = runs.open_checkpoints(folder, manifest)
    if step is None:
        state = checkpoints.restore_newest(trainer.abstract)
    else:
        state = checkpoints.restore(step, trainer.abstract)
    require(state is not None, f"{folder} has no checkpoint yet.")
    return manifest, trainer, state


def introduce(run: runs.Run, trainer: Trainer, text: Text, step: int):
    """Says what will be trained on what, and returns the compiled step."""
    config, data = run.config, run.config.data
    seen = data.batch_size * data.sequence_length * config.steps / len(text.train)
    say(f"{run.folder}: from step {step} to {config.steps}, {seen:.2g} epochs")
    for part in (text, text.mix) if text.mix else (text,):
        here, there = len(part.train), len(part.validation)
        say(f"  {part.name}: {here:,} {part.unit} to train on, {there:,} held out")
    began, devices = time.monotonic(), trainer.mesh.size
    train_step, size = trainer.compiled_step(data.batch_size, data.sequence_length + 1)
    numbers = sum(x.size for x in jax.tree.leaves(trainer.abstract["params"]))
    say(
        f"  {numbers:,} parameters on {devices} {jax.default_backend()} "
        f"device{'s' * (devices > 1)}, {size / 2**30:.2f} GiB each "
        f"(compiled in {time.monotonic() - began:.1f} s)"
    )
    return train_step


def place_validation(trainer: Trainer, config: Config, text: Text):
    """The batches of every evaluation on the devices, by the name of the loss."""
    texts = {"val_loss": text} | ({"val_loss_mix": text.mix} if text.mix else {})
    rows = {name: validation_batches(part, config.data) for name, part in texts.items()}
    return {name: trainer.place(part, axis=1) for name, part in rows.items()}
