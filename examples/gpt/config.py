"""What a run is: frozen dataclasses, written as JSON beside each run."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ShapeName = Literal[
    "linear", "one_minus_sqrt", "one_minus_square", "cosine", "mirror_cosine"
]


# What may change at any time, for it changes nothing that is learned or is not a path.
FREE = ("loop.", "data.data", "data.mix", "data.binary")
# What else may change where a cooldown leaves its trunk.
CHANGE_AT_BRANCH = (
    *("steps", "data.batch_size", "data.validation_sequences"),
    *("optimizer.peak", "optimizer.weight_decay", "optimizer.b2"),
    *("optimizer.cooldown_steps", "optimizer.shape"),
)


class UserError(Exception):
    """A mistake that one sentence explains: shown without a traceback, exit code 2."""


def require(ok: bool, sentence: str) -> None:
    if not ok:
        raise UserError(sentence)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What all verbs have that use the devices."""

    # One process of many: they find each other as jax.distributed.initialize does.
    distributed: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    # Tokens that it knows; text that is not tokenized is read as its 256 bytes.
    vocabulary: int = 256
    # Width of the residual stream.
    width: int = 128
    # Number of blocks.
    depth: int = 3
    # Attention heads in a block.
    heads: int = 2
    # Read the head's weights from the embedding.
    tied: bool = False
    # auto: bfloat16 on accelerators, float32 on a CPU.
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        _require_at_least(1, self, "vocabulary", "width", "depth", "heads")
        require(
            self.width % (2 * self.heads) == 0,
            f"--width must be a multiple of twice --heads ({self.heads}), "
            f"got {self.width}.",
        )


@dataclass(frozen=True)
class DataConfig:
    """The text and how it is cut into batches."""

    # Any file or folder of text, by default the source of the installed JAX; or tokens:
    # a folder that tokenize has written, or a .bin file of nanoGPT's.
    data: Path | None = None
    # Bytes, or tokens, that the model sees at once.
    sequence_length: int = 128
    # Sequences in a step, over all devices.
    batch_size: int = 16
    # Sequences of the held-out files on which every evaluation is made.
    validation_sequences: int = 512
    # Another text, and its share of the rows of every batch, such as PATH=0.3.
    mix: str | None = None
    # Take files that are not text too, byte by byte.
    binary: bool = False

    def __post_init__(self):
        _require_at_least(
            1, self, "sequence_length", "batch_size", "validation_sequences"
        )
        if self.mix is not None:
            _ = self.mixed

    @property
    def mixed(self) -> tuple[Path, float]:
        """The other text and its share."""
        path, _, share = (self.mix or "").rpartition("=")
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        require(
            bool(path) and 0 < number <= 1,
            f"--mix needs PATH=SHARE with a share in (0, 1], got {self.mix}.",
        )
        return Path(path), number


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or schedule-free AdamW, and the phases of the learning rate."""

    # schedule_free needs no cooldown.
    optimizer: Literal["adamw", "schedule_free"] = "adamw"
    # The learning rate after the warmup.
    peak: float = 4e-3
    # Length of the warmup.
    warmup_steps: int = 20
    # Length of a cooldown planned at the end of the run; 0 is a stable trunk.
    cooldown_steps: int = 0
    # Shape of the cooldown.
    shape: ShapeName = "one_minus_sqrt"
    # Momentum of the gradient.
    b1: float = 0.9
    # Memory of the squared gradient.
    b2: float = 0.95
    # Decay of all weights but the norms'.
    weight_decay: float = 0.1
    # Leave out updates that are not finite, rather than stop. The optimizer does not
    # count them: its phases come so many steps later.
    skip_nonfinite: bool = False

    def __post_init__(self):
        _require_at_least(0, self, "warmup_steps", "cooldown_steps", "weight_decay")
        require(0 < self.peak < 1e6, f"--peak must be above 0, got {self.peak}.")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"--{name} must be in [0, 1), got {value}.")


@dataclass(frozen=True)
class LoopConfig:
    """How the loop runs; nothing here changes what is learned."""

    # Steps between two evaluations.
    eval_every: int = 50
    # Steps between two checkpoints.
    save_every: int = 50
    # Checkpoints at multiples of this are kept: branch from them, or merge them.
    snapshot_every: int = 100
    # Steps between two printed lines.
    log_every: int = 10
    # Micro-batches that make up one step: less memory.
    accumulate: int = 1
    # Recompute activations in the backward pass: less memory, more time.
    remat: bool = False
    # auto: splash on TPUs, cudnn on GPUs, written out on a CPU.
    attention: Literal["auto", "written_out", "splash", "cudnn"] = "auto"
    # Devices of the mesh; 0 is all of them.
    devices: int = 0
    # Stop when the loss jumps so many nats above the mean of the last 20; 0 is never.
    max_loss_jump: float = 0.0
    # Write TensorBoard events too.
    tensorboard: bool = False
    # Profile the steps from START to STOP, in the run's folder; see them with xprof.
    profile: tuple[int, int] | None = None

    def __post_init__(self):
        every = ("eval_every", "save_every", "snapshot_every", "log_every")
        _require_at_least(1, self, *every, "accumulate")
        _require_at_least(0, self, "devices", "max_loss_jump")
        start, stop = self.profile or (0, 1)
        require(
            0 <= start < stop,
            f"--profile needs START < STOP, from 0 on, got {start} {stop}.",
        )


@dataclass(frozen=True)
class Config:
    """One run, from its first step or from a checkpoint of its trunk."""

    # Updates, counted from the trunk's first.
    steps: int = 1000
    # Fixes the initial weights and every batch.
    seed: int = 0
    # The network.
    model: ModelConfig = field(default_factory=ModelConfig)
    # What is learned from, and in which batches.
    data: DataConfig = field(default_factory=DataConfig)
    # How a gradient becomes an update.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # How the loop runs, which changes nothing that is learned.
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self):
        _require_at_least(1, self, "steps")
        _require_at_least(0, self, "seed")
        for name in ("steps", "seed"):
            value = getattr(self, name)
            require(value < 2**31, f"--{name} must be below 2**31, got {value}.")
        phases = self.optimizer.warmup_steps + self.optimizer.cooldown_steps
        require(
            self.optimizer.cooldown_steps == 0 or phases <= self.steps,
            f"--warmup-steps and --cooldown-steps ({phases} together) must fit into "
            f"--steps ({self.steps}).",
        )
        require(
            self.optimizer.cooldown_steps == 0 or self.optimizer.optimizer == "adamw",
            f"--optimizer {self.optimizer.optimizer} needs no cooldown: leave it out.",
        )
        require(
            self.data.batch_size % self.loop.accumulate == 0,
            f"--batch-size ({self.data.batch_size}) must be a multiple of "
            f"--accumulate ({self.loop.accumulate}).",
        )

    @property
    def cooldown_start(self) -> int | None:
        """The first step of the cooldown, if the run has one."""
        planned = self.optimizer.cooldown_steps
        return self.steps - planned if planned else None

    @property
    def is_stable(self) -> bool:
        """Whether the run is a trunk to branch cooldowns from."""
        return self.cooldown_start is None and self.optimizer.optimizer == "adamw"

    def phase(self, step: int) -> str:
        """The phase that update number `step`, counted from 0, belongs to."""
        if self.cooldown_start is not None and step >= self.cooldown_start:
            return "cooldown"
        return "warmup" if step < self.optimizer.warmup_steps else "stable"


def differences(old: Config, new: Config, *but: str) -> list[str]:
    """What would change what is learned, each as 'name: old, now new'.

    Paths do not: texts are compared by what is in them.
    """
    old_fields, new_fields = flatten(old), flatten(new)
    return [
        f"{name}: {old_fields[name]}, now {new_fields[name]}"
        for name in old_fields
        if old_fields[name] != new_fields[name] and not name.startswith((*FREE, *but))
    ]


def with_changes(config: Any, **changes: Any) -> Any:
    """A config with other values of fields, wherever in it they are."""
    new = {}
    for item in dataclasses.fields(config):
        old = getattr(config, item.name)
        is_nested = dataclasses.is_dataclass(old)
        new[item.name] = (
            with_changes(old, **changes) if is_nested else changes.get(item.name, old)
        )
    return type(config)(**new)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of nested dataclasses as {'optimizer.peak': 0.004, ...}."""
    flat = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        nested = dataclasses.is_dataclass(value)
        name = prefix + item.name
        flat |= flatten(value, name + ".") if nested else {name: value}
    return flat


def to_json(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json(kind: type, values: Any) -> Any:
    """The dataclass `kind` from what `to_json` gave; refuses other fields."""
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict) or not set(values) <= set(hints):
        raise TypeError(f"{kind.__name__} has fields {', '.join(hints)}, got {values}")
    return kind(**{k: _field_from_json(hints[k], v) for k, v in values.items()})


def _field_from_json(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    if hint == Path | None and value is not None:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _require_at_least(low: int, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        flag = "--" + name.replace("_", "-")
        require(value >= low, f"{flag} must be at least {low}, got {value}.")
