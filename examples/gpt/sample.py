"""Text from a run, sampled byte by byte."""

import functools
import os
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from . import model
from .config import require
from .data import END_OF_FILE
from .progress import say
from .signals import Signals
from .train import load_run


@dataclass(frozen=True)
class Sample:
    """Print text that a run's model writes."""

    # The run, or one of its checkpoints as RUN@STEP.
    run: Annotated[str, tyro.conf.Positional]
    # Text to go on from; by default the start of a file.
    prompt: str = ""
    # Bytes to write.
    bytes: int = 400
    # 0 takes the likeliest byte.
    temperature: float = 0.8
    # Raw weights, or the average that a stable run keeps.
    weights: Literal["raw", "averaged"] = "raw"
    # Fixes the text.
    seed: int = 0
    distributed: bool = False

    def __post_init__(self):
        require(self.bytes >= 1, f"--bytes must be at least 1, got {self.bytes}.")
        require(
            0 <= self.temperature < 100,
            f"--temperature must be in [0, 100), got {self.temperature}.",
        )

    def __call__(self, signals: Signals) -> None:
        config, trainer, state = load_run(self.run)
        weights = trainer.weights(state)
        params = weights.get("val_loss_ema" if self.weights == "averaged" else "")
        params = weights["val_loss"] if params is None else params
        prompt = os.fsencode(self.prompt)  # any bytes, as the shell gave them
        written = sample(
            trainer.graphdef,
            params,
            prompt or END_OF_FILE,
            self.bytes,
            config.data.sequence_length,
            self.temperature,
            jax.random.key(self.seed),
        )
        say((prompt + written).decode(errors="replace"))


def sample(graphdef, params, prompt: bytes, count, length, temperature, key) -> bytes:
    """`count` bytes that follow a prompt, each given the last `length` at most."""
    prompt = prompt[-length:]
    window_L = jnp.zeros(length, jnp.int32)
    window_L = window_L.at[: len(prompt)].set(np.frombuffer(prompt, np.uint8))
    keys = jax.random.split(key, count)
    write = jax.jit(functools.partial(_write, graphdef, temperature))
    return bytes(np.asarray(write(params, window_L, len(prompt), keys), np.uint8))


def _write(graphdef, temperature, params, window_L, filled, keys):
    def step(carry, key):
        window_L, filled = carry
        logits_V = model.logits(graphdef, params, window_L[None])[0, filled - 1]
        if temperature == 0:
            new = jnp.argmax(logits_V)
        else:
            new = jax.random.categorical(key, logits_V / temperature)
        full = filled == window_L.size
        shifted_L = jnp.where(full, jnp.roll(window_L, -1), window_L)
        filled = filled + 1 - full
        return (shifted_L.at[filled - 1].set(new), filled), new

    _, written = jax.lax.scan(step, (window_L, filled), keys)
    return written
