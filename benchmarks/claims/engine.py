"""Runs, their losses, and a trainer that never computes a step twice.

A run is a trajectory up to a step: seed, width, optimizer, and the learning rate of
every step. Two runs that agree up to some step share it: the trainer saves the state
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
import threading
import typing
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import optax_wsd
from examples.gpt.config import ModelConfig
from examples.gpt.data import StepBatches, Text, load_text, validation_batches
from examples.gpt.model import graph, init_params, next_byte_loss

from .settings import Scale
from .specs import Spec, learning_rates, snapshot_weights

STATES = Path(__file__).parents[1] / ".cache"
VALIDATION_ROWS = 64  # sequences evaluated at once
ADAMW = {"name": "adamw", "b1": 0.9, "b2": 0.95, "weight_decay": 0.1}


class NotMeasuredError(Exception):
    """A run that is not in the results."""


class Losses(typing.NamedTuple):
    """Nats per byte on two disjoint parts of the held-out text."""

    tune: float  # what settings are chosen by
    report: float  # what is said of the chosen ones


@dataclasses.dataclass(frozen=True)
class Run:
    """One trajectory of a seed up to a step, and the weights evaluated there.

    A schedule that never ends is evaluated on its way by runs of several `steps`.
    """

    scale: Scale
    seed: int
    steps: int
    schedule: Spec
    optimizer: Spec = dataclasses.field(default_factory=lambda: ADAMW)
    width: int | None = None  # of the model; None: that of the scale
    # (text, share, start, stop): rows of another text, in steps start to stop.
    mixture: tuple[str, float, int, int] | None = None
    # None: the last weights, or x of a schedule-free run. See `specs.snapshot_weights`.
    average: Spec | None = None
    text: str = "jax"  # evaluated on

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["scale"]
        defaults = {"optimizer": ADAMW, "text": "jax"}
        fields = {k: v for k, v in fields.items() if v != defaults.get(k)}
        return json.loads(json.dumps(fields))

    @functools.cached_property
    def key(self) -> str:
        return json.dumps(self.config, sort_keys=True)

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every step, float32 [steps]."""
        return learning_rates(self.schedule, self.steps, self.scale.warmup_steps)

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """The share of the other text at every step, [steps]."""
        shares = np.zeros(self.steps, np.float32)
        if self.mixture:
            _, share, start, stop = self.mixture
            shares[start:stop] = share
        return shares

    @functools.cached_property
    def weights(self) -> np.ndarray | None:
        """The weight of every snapshot in the average."""
        if self.average is None:
            return None
        every = self.scale.chunk // self.scale.snapshots
        return snapshot_weights(self.average, self.steps, every)

    @property
    def model(self) -> ModelConfig:
        width = self.width or self.scale.model.width
        return dataclasses.replace(self.scale.model, width=width)

    def prefix(self, step: int) -> str:
        """What all runs that are the same up to a step have in common."""
        family = [self.seed, self.width, self.optimizer]
        digest = hashlib.sha256(json.dumps(family, sort_keys=True).encode())
        digest.update(self.rates[:step].tobytes())
        if self.mixture and np.any(self.shares[:step]):
            digest.update(self.mixture[0].encode() + self.shares[:step].tobytes())
        return digest.hexdigest()[:24]


class Lab:
    """The losses of runs, which are trained once and kept in a file."""

    def __init__(self, scale: Scale, results: Path):
        self.scale, self.results = scale, results
        self.measured: dict[str, Losses] = {}
        self.origins: set[str] = set()
        self.wanted: list[Run] = []  # asked for, and not measured
        self._lock = threading.Lock()
        self.read()

    def read(self) -> None:
        """Takes what is in the file, also from another process that trains."""
        text = self.results.read_text() if self.results.exists() else ""
        for line in text.splitlines():
            entry = json.loads(line)
            key = json.dumps(entry["run"], sort_keys=True)
            self.measured[key] = Losses(entry["tune"], entry["report"])
            self.origins.add(entry["origin"])

    def losses(self, runs: Sequence[Run]) -> list[Losses]:
        missing = [run for run in runs if run.key not in self.measured]
        if missing:
            self.wanted += missing
            raise NotMeasuredError(f"{len(missing)} of {len(runs)} runs")
        return [self.measured[run.key] for run in runs]

    def missing(self) -> list[list[Run]]:
        """The runs that were asked for, in groups that share their first steps."""
        missing = {run.key: run for run in self.wanted if run.key not in self.measured}
        groups = defaultdict(list)
        for run in sorted(missing.values(), key=lambda run: run.seed):
            # Runs with other first steps share nothing worth sharing.
            groups[run.prefix(self.scale.warmup_steps)].append(run)
        steps = sum(_new_steps(group) for group in groups.values())
        print(f"{len(missing)} runs to make, at most {steps} steps", flush=True)
        return list(groups.values())

    def train(self) -> None:
        """Trains the runs that were asked for; those of the first seeds first."""
        self.read()
        origin = _origin(self.scale)
        if others := self.origins - {origin}:
            raise ValueError(
                f"{self.results} holds runs of another text or model ({others}, now "
                f"{origin}); move it away, or install the versions it was made with."
            )
        groups, self.wanted = self.missing(), []
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
            futures = [pool.submit(train_group, group) for group in groups]
            for future in concurrent.futures.as_completed(futures):
                future.result()

    def _record(self, run: Run, losses: Losses) -> None:
        entry = {
            "run": run.config,
            **{name: round(loss, 5) for name, loss in losses._asdict().items()},
            "origin": _origin(self.scale),
            "jax": version("jax"),
        }
        with self._lock:
            self.results.parent.mkdir(parents=True, exist_ok=True)
            with self.results.open("a") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.measured[run.key] = Losses(entry["tune"], entry["report"])
            self.origins.add(entry["origin"])
        print(f"{losses.report:.4f}  {run.key}", flush=True)


class Trainer:
    """Trains the runs of a scale, one trajectory after the other, on one device."""

    def __init__(self, scale: Scale, origin: str):
        self.scale, self.origin = scale, origin

    def train(self, runs: Sequence[Run], record) -> None:
        """Trains runs that may share steps, and records each one as it ends."""
        tracks = _tracks(runs)
        for track in tracks:
            ends = {_shared_steps(track[0], other[0]) for other in tracks}
            chunk = self.scale.chunk
            self._train_track(track, {end // chunk * chunk for end in ends}, record)

    def _train_track(self, runs: Sequence[Run], save_at: set[int], record) -> None:
        """The runs are of one trajectory, the first one to its end."""
        chunk, taken, longest = self.scale.chunk, self.scale.snapshots, runs[0]
        weights = {r.key: r.weights for r in runs if r.weights is not None}
        # The snapshots before the first with a weight need not be seen again.
        starts = [int(np.flatnonzero(w)[0]) // taken * chunk for w in weights.values()]
        ends = [run.steps for run in runs if run.key not in weights]
        step, state = self._resume(longest, min(starts + ends))
        sums: dict[str, Any] = dict.fromkeys(weights, 0.0)
        batches = self._batches(longest)
        program = _program(longest.model, longest.optimizer["name"], taken)
        hyper = {k: v for k, v in longest.optimizer.items() if k != "name"}
        while True:
            for run in (run for run in runs if run.steps == step):
                params = optax_wsd.eval_params(state[1], state[0])
                if run.key in weights:
                    params = ravel_pytree(state[0])[1](sums[run.key])
                record(run, self._evaluate(run, params))
            if step in save_at:
                _save(self._name(longest, step), jax.device_get(state))
            if step == longest.steps:
                return
            stop = step + chunk
            tokens = np.stack([batches(i) for i in range(step, stop)])
            state, snapshots = program(state, longest.rates[step:stop], tokens, hyper)
            at = slice(step // chunk * taken, stop // chunk * taken)
            for key, w in weights.items():
                # Past the run's own end there are no weights.
                sums[key] = sums[key] + w[at] @ np.asarray(snapshots)[: len(w[at])]
            step = stop

    def _resume(self, run: Run, last: int):
        """The latest state of the run's trajectory, up to the step `last`."""
        for step in range(last, 0, -self.scale.chunk):
            path = _path(self._name(run, step))
            if path.exists():
                return step, pickle.loads(path.read_bytes())
        params = init_params(run.model, run.seed)
        return 0, (params, _optimizer(run.optimizer, 0.0).init(params))

    def _name(self, run: Run, step: int) -> str:
        return f"{self.origin}-{run.prefix(step)}"

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

    def _evaluate(self, run: Run, params) -> Losses:
        windows = _windows(self.scale, run.text)
        losses = np.asarray(_window_losses(run.model)(params, windows))
        # Every other batch: each is of files that are next to each other.
        return Losses(float(losses[::2].mean()), float(losses[1::2].mean()))


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
            return state, ravel_pytree(state[0])[0]

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
    if "growing_b1" in hyper:
        hyper["b1"] = optax_wsd.growing_b1_schedule(hyper.pop("growing_b1"))
    if spec["name"] == "schedule_free":
        return optax_wsd.schedule_free_adamw(rate, **hyper, mask=_is_matrix)
    if spec["name"] == "schedule_free_muon":
        b2, weight_decay = hyper.pop("b2"), hyper.pop("weight_decay")
        ascent = optax.contrib.muon(  # an optimizer at rate -1 is a direction
            -1.0,
            weight_decay=weight_decay,
            adam_b1=0.0,
            adam_b2=b2,
            adam_weight_decay=weight_decay,
            muon_weight_dimension_numbers=_of_muon,
            consistent_rms=0.2,
        )
        return optax_wsd.schedule_free(ascent, rate, **hyper)
    raise ValueError(f"no optimizer {spec['name']}")


def _is_matrix(params):
    """The mask of weight decay: norms have none."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def _of_muon(params):
    """Muon takes the kernels of blocks, and Adam embedding, head and norms."""

    def numbers(path, leaf):
        is_muon = path[0].key == "blocks" and jnp.ndim(leaf) == 2
        return optax.contrib.MuonDimensionNumbers() if is_muon else None

    return jax.tree_util.tree_map_with_path(numbers, params)


@functools.cache
def _window_losses(model: ModelConfig):
    """The mean loss of every batch of validation windows."""
    graphdef = graph(model)
    return jax.jit(
        lambda params, windows: jax.lax.map(
            lambda tokens: next_byte_loss(graphdef, params, tokens), windows
        )
    )


@functools.cache
def _texts(scale: Scale) -> dict[str, Text]:
    import matplotlib  # the other text: the source of another package

    root = Path(matplotlib.matplotlib_fname()).parents[1]
    other = STATES / "other.py"
    other.parent.mkdir(parents=True, exist_ok=True)
    partial = other.with_suffix(f".{os.getpid()}")
    partial.write_bytes(b"".join(p.read_bytes() for p in sorted(root.rglob("*.py"))))
    partial.replace(other)
    config = dataclasses.replace(scale.data, data=other)
    return {"jax": load_text(scale.data), "other": load_text(config)}


@functools.cache
def _origin(scale: Scale) -> str:
    """The text, and the loss of the untrained model: other ones cannot be compared."""
    text = _texts(scale)["jax"]
    windows = _windows(scale, "jax")[:1]
    loss = _window_losses(scale.model)(init_params(scale.model, 0), windows)[0]
    return f"{text.identity[:12]}-{float(loss):.3f}"


@functools.cache
def _windows(scale: Scale, text: str) -> np.ndarray:
    rows = dataclasses.replace(scale.data, data=None, batch_size=VALIDATION_ROWS)
    return validation_batches(_texts(scale)[text], rows)


def _tracks(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by trajectory; the first of each goes to its end.

    The longest stretches at the peak come first: the others branch from them.
    """
    tracks: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (-run.steps, -float(run.rates.sum()))):
        for track in tracks:
            if _shared_steps(track[0], run) == run.steps:
                track.append(run)
                break
        else:
            tracks.append([run])
    return tracks


def _shared_steps(run: Run, other: Run) -> int:
    """How many first steps two runs have in common."""
    length = min(run.steps, other.steps)
    differs = run.rates[:length] != other.rates[:length]
    differs |= run.shares[:length] != other.shares[:length]
    return int(np.argmax(differs)) if np.any(differs) else length


def _new_steps(group: Sequence[Run]) -> int:
    """The steps of a group of runs, each shared step counted once."""
    chunk = group[0].scale.chunk
    longest = [track[0] for track in _tracks(group)]
    ends = {r.prefix(i) for r in longest for i in range(chunk, r.steps + 1, chunk)}
    return chunk * len(ends)


def _path(name: str) -> Path:
    return STATES / "states" / name[:2] / f"{name}.pickle"


def _save(name: str, value) -> None:
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{threading.get_ident()}")
    partial.write_bytes(pickle.dumps(value))
    partial.replace(path)
