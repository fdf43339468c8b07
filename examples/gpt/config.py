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
        twice = f"--width must be a multiple of twice --heads ({self.heads})"
        require(self.width % (2 * self.heads) == 0, f"{twice}, got {self.width}.")


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
        sizes = "sequence_length", "batch_size", "validation_sequences"
        _require_at_least(1, self, *sizes)
        if self.mix is not None:
            _ = self.mixed

    @property
    def mixed(self) -> tuple[Path, float]:
        """The other text and its share."""
        path, _, share = (self.mix or "").rpartition("=")
        try:
            good = bool(path) and 0 < float(share) <= 1
        except ValueError:
            good = False
        require(good, f"--mix needs PATH=SHARE, a share in (0, 1], got {self.mix}.")
        return Path(path), float(share)


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
    # Log to this project of Trackio's too, which needs its package.
    trackio: str | None = None
    # Profile the steps from START to STOP, in the run's folder; see them with xprof.
    profile: tuple[int, int] | None = None

    def __post_init__(self):
        every = ("eval_every", "save_every", "snapshot_every", "log_every")
        _require_at_least(1, self, *every, "accumulate")
        _require_at_least(0, self, "devices", "max_loss_jump")
        start, stop = self.profile or (0, 1)
        need = "--profile needs START < STOP, from 0 on"
        require(0 <= start < stop, f"{need}, got {start} {stop}.")


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
        name, cooldown = self.optimizer.optimizer, self.optimizer.cooldown_steps
        phases = self.optimizer.warmup_steps + cooldown
        require(
            cooldown == 0 or phases <= self.steps,
            f"--warmup-steps and --cooldown-steps ({phases} together) must fit into "
            f"--steps ({self.steps}).",
        )
        needs_none = f"--optimizer {name} needs no cooldown: leave it out."
        require(cooldown == 0 or name == "adamw", needs_none)
        batch, parts = self.data.batch_size, self.loop.accumulate
        need = f"--batch-size ({batch}) must be a multiple of --accumulate ({parts})."
        require(batch % parts == 0, need)

    @property
    def cooldown_start(self) -> int | None:
        """The first step of the cooldown, if the run has one."""
        planned = self.optimizer.cooldown_steps
        return self.steps - planned if planned else None

    @property
    def is_stable(self) -> bool:
        """Whether cooldowns can branch from all of it."""
        return self.cooldown_start is None and self.optimizer.optimizer == "adamw"

    def phase(self, step: int) -> str:
        """The phase that update number `step`, counted from 0, belongs to."""
        if self.cooldown_start is not None and step >= self.cooldown_start:
            return "cooldown"
        return "warmup" if step < self.optimizer.warmup_steps else "stable"


def with_changes(config: Any, **changes: Any) -> Any:
    """A config with other values of fields, wherever in it they are."""
    new = {name: value for name, value in changes.items() if name in vars(config)}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            new[name] = with_changes(value, **changes)
    return dataclasses.replace(config, **new)


def to_json(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json(hint: Any, value: Any) -> Any:
    """A value of a type from what `to_json` gave."""
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        fields = {name: from_json(hints[name], field) for name, field in value.items()}
        return typing.cast(Any, hint)(**fields)
    if hint == Path | None and value is not None:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _require_at_least(low: int, config: Any, *names: str) -> None:
    for name in names:
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        require(
            low <= value < 2**31,
            f"{flag} must be at least {low} and below 2**31, got {value}.",
        )
