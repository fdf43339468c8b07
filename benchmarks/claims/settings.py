"""How large the experiments are: on two CPU cores, and on one accelerator."""

import dataclasses
from dataclasses import dataclass

from examples.gpt.config import DataConfig, ModelConfig


@dataclass(frozen=True)
class Scale:
    """A size of model and run. All lengths of claims are fractions of `steps`."""

    name: str
    model: ModelConfig
    data: DataConfig
    # Length of the reference run, a multiple of 40 chunks.
    steps: int
    # Steps in one compiled call: every branch point is a multiple of it.
    chunk: int
    warmup_steps: int
    # The grids on which peaks are tuned: of a constant rate and short cooldowns, and of
    # schedules that fall for longer, whose best peak is higher.
    peaks: tuple[float, ...]
    falling_peaks: tuple[float, ...]
    # Peaks that the grids chose, for the claims that do not tune again: of WSD 20 %, of
    # a constant rate, and of cosine or a long cooldown.
    peak: float
    stable_peak: float
    cosine_peak: float
    schedule_free_peaks: tuple[float, ...]
    schedule_free_peak: float
    # Widths of the scaling-law sweep.
    widths: tuple[int, ...]
    # Snapshots in a chunk, for averages over them.
    snapshots: int
    # Threads that train, each on its own CPU device; 1 on an accelerator.
    workers: int

    def at(self, fraction: float) -> int:
        """A fraction of the reference run in steps, at a chunk boundary."""
        return max(1, round(fraction * self.steps / self.chunk)) * self.chunk


CPU = Scale(
    name="cpu",
    model=ModelConfig(width=48, depth=2, heads=2),
    data=DataConfig(sequence_length=64, batch_size=8, validation_sequences=1536),
    steps=1200,
    chunk=30,
    warmup_steps=60,
    peaks=(2e-3, 4e-3, 8e-3, 1.6e-2),
    falling_peaks=(4e-3, 8e-3, 1.6e-2, 3.2e-2),
    peak=8e-3,
    stable_peak=4e-3,
    cosine_peak=1.6e-2,
    schedule_free_peaks=(8e-3, 1.6e-2, 3.2e-2),
    schedule_free_peak=1.6e-2,
    widths=(16, 32, 48),
    snapshots=6,
    workers=2,
)

GPU = Scale(
    name="gpu",
    model=ModelConfig(width=384, depth=6, heads=6),
    data=DataConfig(sequence_length=256, batch_size=64, validation_sequences=1536),
    steps=4000,
    chunk=100,
    warmup_steps=200,
    peaks=(5e-4, 1e-3, 2e-3, 4e-3),
    falling_peaks=(1e-3, 2e-3, 4e-3, 8e-3),
    peak=2e-3,
    stable_peak=1e-3,
    cosine_peak=4e-3,
    schedule_free_peaks=(2e-3, 4e-3, 8e-3),
    schedule_free_peak=4e-3,
    widths=(96, 192, 384),
    snapshots=1,
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
