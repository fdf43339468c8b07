"""How large the experiments are: on two CPU cores, and on one accelerator."""

import dataclasses
from dataclasses import dataclass

from examples.gpt.config import DataConfig, ModelConfig


@dataclass(frozen=True)
class Scale:
    """A size of model and run. All lengths of claims are fractions of `steps`."""

    name: str
    parameters: str  # how many, for people
    model: ModelConfig
    data: DataConfig
    # Length of the reference run, a multiple of 40 chunks.
    steps: int
    # Steps in one compiled call: every branch point is a multiple of it.
    chunk: int
    warmup_steps: int
    # Rung 0 of the ladder on which every peak is tuned.
    peak: float
    # Widths of the scaling-law sweep.
    widths: tuple[int, ...]
    # A width of five times the parameters.
    wide: int
    # Snapshots in a chunk, for averages over them.
    snapshots: int
    # Threads that train, each on its own CPU device; 1 on an accelerator.
    workers: int

    def at(self, fraction: float) -> int:
        """A fraction of the reference run in steps, at a chunk boundary."""
        return self.chunks(fraction * self.steps)

    def chunks(self, steps: float) -> int:
        """Steps, rounded to whole chunks, at least one."""
        return max(1, round(steps / self.chunk)) * self.chunk

    def rung(self, number: int) -> float:
        """A peak; those of neighbouring rungs are a factor of sqrt(2) apart."""
        return float(f"{self.peak * 2 ** (number / 2):.3g}")


CPU = Scale(
    name="cpu",
    parameters="80k",
    model=ModelConfig(width=48, depth=2, heads=2),
    data=DataConfig(sequence_length=64, batch_size=8, validation_sequences=1536),
    steps=1200,
    chunk=30,
    warmup_steps=60,
    peak=8e-3,
    widths=(16, 32, 48),
    wide=112,
    snapshots=6,
    workers=2,
)

GPU = Scale(
    name="gpu",
    parameters="11M",
    model=ModelConfig(width=384, depth=6, heads=6),
    data=DataConfig(sequence_length=256, batch_size=64, validation_sequences=1536),
    steps=4000,
    chunk=100,
    warmup_steps=200,
    peak=2e-3,
    widths=(96, 192, 384),
    wide=864,
    snapshots=5,
    workers=1,
)

SCALES = {scale.name: scale for scale in (CPU, GPU)}


def quick(scale: Scale) -> Scale:
    """A fifth of the steps: to see that all works, not to learn from."""
    return dataclasses.replace(
        scale,
        name=f"{scale.name}_quick",
        steps=scale.steps // 5,
        chunk=scale.chunk // 5,
        warmup_steps=scale.warmup_steps // 5,
    )
