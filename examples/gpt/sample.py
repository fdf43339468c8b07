"""Text from a run, sampled token by token."""

import functools
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from . import model
from .config import Verb, require
from .data import codec
from .optimizer import Which
from .train import load_run


@dataclass(frozen=True)
class Sample(Verb):
    """Print text that a run's model writes."""

    # The run, or one of its checkpoints as RUN@STEP.
    run: Annotated[str, tyro.conf.Positional]
    # Text to go on from; by default the start of a file.
    prompt: str = ""
    # Tokens to write, or bytes where there are none.
    tokens: int = 400
    # 0 takes the likeliest.
    temperature: float = 0.8
    # The weights as they were trained, or an average that a run with AdamW keeps.
    which: Which = "raw"
    # Fixes the text.
    seed: int = 0

    def __post_init__(self):
        require(self.tokens >= 1, f"--tokens must be at least 1, got {self.tokens}.")
        require(
            0 <= self.temperature < 100,
            f"--temperature must be in [0, 100), got {self.temperature}.",
        )

    def __call__(self) -> None:
        run = load_run(self.run)
        has_words = run.unit == "bytes" or run.tokenizer is not None
        require(has_words, f"The tokens of {self.run} have no tokenizer.json.")
        encode, decode, end = codec(run.tokenizer)
        prompt = os.fsencode(self.prompt)  # any bytes, as the shell gave them
        written = sample(
            run.trainer.graphdef,
            run.trainer.weights(run.state, which=self.which),
            encode(prompt) or [end],
            self.tokens,
            run.config.data.sequence_length,
            self.temperature,
            jax.random.key(self.seed),
        )
        if jax.process_index() == 0:  # what the model wrote, and nothing else
            sys.stdout.buffer.write(prompt + decode(written) + b"\n")
            sys.stdout.buffer.flush()


def sample(
    graphdef, params, prompt: list[int], count, length, temperature, key
) -> list[int]:
    """`count` tokens that follow a prompt, each given the last `length` at most."""
    prompt = prompt[-length:]
    window_L = jnp.zeros(length, jnp.int32)
    window_L = window_L.at[: len(prompt)].set(np.array(prompt, np.int32))
    keys = jax.random.split(key, count)
    write = jax.jit(functools.partial(_write, graphdef, temperature))
    return np.asarray(write(params, window_L, len(prompt), keys)).tolist()


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
