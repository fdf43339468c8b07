"""Runs, their cache, and a trainer that never computes a step twice.

A run is a trajectory up to a step: model, data, optimizer, seed, and the learning rate
of every step. Two runs that agree up to some step share it: the trainer saves the state
there and branches, with the same batches from there on, so that their difference is
paired. Finished runs are lines of a JSON file; states are a cache outside git.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pickle
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_wsd
from examples.gpt.config import DataConfig, ModelConfig, from_json, to_json
from examples.gpt.data import StepBatches, Text, load_text, validation_batches
from examples.gpt.model import graph, init_params, next_byte_loss

from .settings import Scale
from .specs import Spec, learning_rates, snapshot_weights

STATES = Path(__file__).parents[1] / ".cache"
VALIDATION_ROWS = 64  # sequences evaluated at once


class NotMeasuredError(Exception):
    """A run that is not in the results."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One trajectory of a seed, and the weights and the text it is evaluated with."""

    seed: int
    steps: int
    schedule: Spec
    model: ModelConfig
    data: DataConfig
    optimizer: Spec
    # (text, share, start, stop): rows of another text, in steps start to stop.
    mixture: tuple[str, float, int, int] | None = None
    # None: the last weights, or x of a schedule-free run. See `specs.snapshot_weights`.
    average: Spec | None = None
    # (step, share): the point at `share` of the line from the weights of that step.
    line: tuple[int, float] | None = None
    validate_on: str = "jax"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Every field, as JSON: the key of the run in the results."""
        return to_json(self)

    @functools.cached_property
    def key(self) -> str:
        return _key(self.config)

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every step, float32 [steps]."""
        return learning_rates(self.schedule, self.steps)

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """The share of the other text at every step, [steps]."""
        shares = np.zeros(self.steps, np.float32)
        if self.mixture:
            _, share, start, stop = self.mixture
            shares[start:stop] = share
        return shares

    @property
    def family(self) -> str:
        """Runs of one family can share steps."""
        shared = {k: self.config[k] for k in ("seed", "model", "data", "optimizer")}
        return json.dumps(shared, sort_keys=True)

    def prefix(self, step: int) -> str:
        """What all runs that are the same up to a step have in common."""
        digest = hashlib.sha256(self.family.encode())
        digest.update(self.rates[:step].tobytes())
        if self.mixture and np.any(self.shares[:step]):
            digest.update(self.mixture[0].encode() + self.shares[:step].tobytes())
        return digest.hexdigest()[:24]


class Plan:
    """Stands in for a `Lab` where one only wants to know which runs are asked for."""

    def __init__(self):
        self.runs: list[Run] = []

    def losses(self, runs: Sequence[Run]) -> list[float]:
        self.runs += runs
        raise NotMeasuredError("a plan has no losses")


class Lab:
    """The losses of runs, which are trained once and kept in a file."""

    def __init__(self, scale: Scale, results: Path):
        self.scale, self.results = scale, results
        self.entries: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        if results.exists():
            for line in results.read_text().splitlines():
                entry = json.loads(line)
                self.entries[_key(entry["config"])] = entry

    def losses(self, runs: Sequence[Run]) -> list[float]:
        """The validation loss of each run, in nats per byte."""
        missing = sum(run.key not in self.entries for run in runs)
        if missing:
            raise NotMeasuredError(f"{missing} of {len(runs)} runs")
        return [self.entries[run.key]["loss"] for run in runs]

    def train(self, runs: Sequence[Run]) -> None:
        """Trains the runs that are not there yet; those of the first seeds first."""
        origin = _origin(self.scale)
        others = {entry["origin"] for entry in self.entries.values()} - {origin}
        if others:
            raise ValueError(
                f"{self.results} holds runs of another text or model ({others}, now "
                f"{origin}); move it away, or install the versions it was made with."
            )
        missing = {run.key: run for run in runs if run.key not in self.entries}
        groups = defaultdict(list)
        for run in sorted(missing.values(), key=lambda run: run.seed):
            # Runs with other first steps share nothing worth sharing.
            groups[run.prefix(self.scale.warmup_steps)].append(run)
        steps = sum(_new_steps(group, self.scale.chunk) for group in groups.values())
        print(f"{len(missing)} runs to make, at most {steps} steps", flush=True)
        free = jax.devices()[: self.scale.workers]

        def train_group(group):
            with self._lock:
                device = free.pop()
            try:
                with jax.default_device(device):
                    Trainer(self.scale, origin).train(group, self._record)
            finally:
                free.append(device)

        with concurrent.futures.ThreadPoolExecutor(len(free)) as pool:
            futures = [pool.submit(train_group, group) for group in groups.values()]
            for future in concurrent.futures.as_completed(futures):
                future.result()

    def _record(self, run: Run, loss: float, seconds: float) -> None:
        entry = {
            "config": run.config,
            "loss": loss,
            "origin": _origin(self.scale),
            "seconds": round(seconds, 2),
            "device": jax.devices()[0].device_kind,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "optax", "flax")},
            },
        }
        with self._lock:
            self.results.parent.mkdir(parents=True, exist_ok=True)
            with self.results.open("a") as file:
                file.write(json.dumps(entry, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.entries[run.key] = entry
        print(f"{loss:.4f}  {_describe(run)}", flush=True)


class Trainer:
    """Trains the runs of a scale, one after the other, on one device."""

    def __init__(self, scale: Scale, origin: str):
        self.scale, self.origin = scale, origin

    def train(self, runs: Sequence[Run], record) -> None:
        """Trains runs that may share steps, and records each one as it ends."""

        # Those that need snapshots of all their steps go first, and are branched from.
        def order(run):
            return run.average is None, run.rates.tobytes(), run.steps

        for run in sorted(runs, key=order):
            start = time.monotonic()
            ends = {run.steps} | {_shared_steps(run, other) for other in runs}
            ends |= {line[0] for line in [run.line] if line}
            chunk = self.scale.chunk
            state = self._state_at(run, {end // chunk * chunk for end in ends})
            loss = self._evaluate(run, state)
            record(run, loss, time.monotonic() - start)

    def _state_at(self, run: Run, save_at: set[int]):
        """The state after the run's last step, from the longest prefix in the cache."""
        chunk = self.scale.chunk
        snapshots = run.average is not None
        step, state = self._resume(run, snapshots) or (0, self._init(run))
        batches = self._batches(run)
        program = _program(run.model, run.optimizer["name"], self.scale.snapshots)
        hyper = {k: v for k, v in run.optimizer.items() if k != "name"}
        for begin in range(step, run.steps, chunk):
            stop = begin + chunk
            tokens = np.stack([batches(i) for i in range(begin, stop)])
            state, taken = program(state, run.rates[begin:stop], tokens, hyper)
            if snapshots:
                _save(self._name(run, stop) + "-snapshots", jax.device_get(taken))
            if stop in save_at:
                _save(self._name(run, stop), jax.device_get(state))
        return state

    def _resume(self, run: Run, snapshots: bool):
        chunk = self.scale.chunk
        for step in range(run.steps, 0, -chunk):
            state = _load(self._name(run, step))
            if state and (not snapshots or self._has_snapshots(run, step)):
                return step, state

    def _name(self, run: Run, step: int) -> str:
        return f"{self.origin}-{run.prefix(step)}"

    def _has_snapshots(self, run: Run, step: int) -> bool:
        ends = range(self.scale.chunk, step + 1, self.scale.chunk)
        return all(_path(self._name(run, end) + "-snapshots").exists() for end in ends)

    def _init(self, run: Run):
        params = init_params(run.model, run.seed)
        return params, _optimizer(run.optimizer, 0.0).init(params)

    def _batches(self, run: Run):
        texts = _texts(self.scale)
        main = StepBatches(texts["jax"].train, self.scale.data, run.seed)
        if not run.mixture:
            return main.__getitem__
        other = StepBatches(texts[run.mixture[0]].train, self.scale.data, run.seed)

        def batch(step):
            rows = main[step]
            replaced = round(float(run.shares[step]) * len(rows))
            return np.concatenate([rows[replaced:], other[step][:replaced]])

        return batch

    def _evaluate(self, run: Run, state) -> float:
        params, opt_state = state
        if run.average:
            params = self._averaged(run, run.average)
        elif run.line:
            step, share = run.line
            start = _load(self._name(run, step))[0]
            params = jax.tree.map(lambda a, b: a + share * (b - a), start, params)
        else:
            params = optax_wsd.eval_params(opt_state, params)
        return float(_validation_loss(run.model)(params, _windows(self.scale, run)))

    def _averaged(self, run: Run, average: Spec):
        chunk, taken = self.scale.chunk, self.scale.snapshots
        every = chunk // taken
        weights = snapshot_weights(average, run.steps, every)

        def snapshots():
            for i in np.flatnonzero(weights):
                end, at = divmod(int(i), taken)
                stacked = _load(self._name(run, (end + 1) * chunk) + "-snapshots")
                yield jax.tree.map(lambda leaf, at=at: leaf[at], stacked)

        return optax_wsd.merge_params(snapshots(), weights[weights != 0])


@functools.cache
def _program(model: ModelConfig, optimizer: str, snapshots: int):
    """Trains for a chunk of steps; returns the state and evenly spaced snapshots."""
    graphdef = graph(model)

    @jax.jit
    def train_chunk(state, rates, tokens, hyper):
        def step(state, inputs):
            params, opt_state = state
            rate, tokens_BxM = inputs
            tx = _optimizer({"name": optimizer, **hyper}, rate)
            grads = jax.grad(lambda p: next_byte_loss(graphdef, p, tokens_BxM))(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        def span(state, inputs):
            state, _ = jax.lax.scan(step, state, inputs)
            return state, state[0]

        spans = jax.tree.map(
            lambda x: x.reshape(snapshots, -1, *x.shape[1:]), (rates, tokens)
        )
        return jax.lax.scan(span, state, spans)

    return train_chunk


def _optimizer(spec: Spec, rate) -> optax.GradientTransformation:
    """The optimizer at one learning rate; every number in it may be traced."""
    hyper = {k: v for k, v in spec.items() if k != "name"}
    if spec["name"] == "adamw":
        adamw = optax.adamw(rate, **hyper, mask=_is_matrix)
        return optax.chain(optax.clip_by_global_norm(1.0), adamw)
    if spec["name"] == "schedule_free":
        return optax_wsd.schedule_free_adamw(rate, **hyper, mask=_is_matrix)
    raise ValueError(f"no optimizer {spec['name']}")


def _is_matrix(params):
    """The mask of weight decay: norms have none."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


@functools.cache
def _validation_loss(model: ModelConfig):
    graphdef = graph(model)

    @jax.jit
    def loss(params, windows):
        def batch_loss(tokens):
            return next_byte_loss(graphdef, params, tokens)

        return jnp.mean(jax.lax.map(batch_loss, windows))

    return loss


@functools.cache
def _texts(scale: Scale) -> dict[str, Text]:
    import matplotlib  # the other text: an install of another package

    other = dataclasses.replace(
        scale.data, data=Path(matplotlib.matplotlib_fname()).parents[1]
    )
    return {"jax": load_text(scale.data), "other": load_text(other)}


@functools.cache
def _origin(scale: Scale) -> str:
    """The text, and the loss of the untrained model: other ones cannot be compared."""
    text = _texts(scale)["jax"]
    windows = _validation(scale, "jax")[:1]
    loss = _validation_loss(scale.model)(init_params(scale.model, 0), windows)
    return f"{text.sha256[:12]}-{float(loss):.3f}"


@functools.cache
def _validation(scale: Scale, text: str) -> np.ndarray:
    rows = DataConfig(
        sequence_length=scale.data.sequence_length,
        batch_size=VALIDATION_ROWS,
        validation_sequences=scale.data.validation_sequences,
    )
    return validation_batches(_texts(scale)[text], rows)


def _windows(scale: Scale, run: Run) -> np.ndarray:
    return _validation(scale, run.validate_on)


def _shared_steps(run: Run, other: Run) -> int:
    """How many first steps two runs have in common."""
    length = min(run.steps, other.steps)
    differs = run.rates[:length] != other.rates[:length]
    differs |= run.shares[:length] != other.shares[:length]
    return int(np.argmax(differs)) if np.any(differs) else length


def _new_steps(group: Sequence[Run], chunk: int) -> int:
    """The steps of a group of runs, each shared step counted once."""
    ends = {run.prefix(i) for run in group for i in range(chunk, run.steps + 1, chunk)}
    return chunk * len(ends)


def _key(config: dict[str, Any]) -> str:
    """A run's fields as text; those that its model had no name for yet by default."""
    model = to_json(from_json(ModelConfig, config["model"]))
    data = to_json(from_json(DataConfig, config["data"]))
    return json.dumps(config | {"model": model, "data": data}, sort_keys=True)


def _describe(run: Run) -> str:
    extras = [run.average, run.line, run.mixture]
    spec = {**run.schedule, "optimizer": run.optimizer["name"]}
    return f"seed {run.seed} step {run.steps} {spec} {[e for e in extras if e]}"


def _path(name: str) -> Path:
    return STATES / "states" / f"{name}.pickle"


def _load(name: str) -> Any:
    path = _path(name)
    return pickle.loads(path.read_bytes()) if path.exists() else None


def _save(name: str, value) -> None:
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{threading.get_ident()}")
    partial.write_bytes(pickle.dumps(value))
    partial.replace(path)
