"""What a checkpoint is good for: to be evaluated, exported, and sampled from."""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from .config import Verb, require, to_json, with_changes
from .data import load_text, require_same_tokens
from .optimizer import Which
from .progress import bits_per_byte, say
from .runs import read_codec
from .train import load_run, place_validation


@dataclass(frozen=True)
class Evaluate(Verb):
    """Print the losses of checkpoints and their averages on what is held out."""

    # Runs, each at its newest checkpoint, or checkpoints as RUN@STEP.
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    # Another text than that of the runs: the same part of it is held out.
    data: Path | None = None
    # The weights as they were trained, and averages that a run with AdamW keeps.
    which: tuple[Which, ...] = ("raw", "ema")

    def __post_init__(self):
        require(bool(self.runs and self.which), "Name at least one RUN and weights.")

    def __call__(self) -> None:
        say("val_loss  bits/byte  weights")
        changes = {"data": self.data, "mix": None} if self.data else {}
        for name in self.runs:
            run, trainer, state = load_run(name)
            config = with_changes(run["config"], **changes)
            text = load_text(config.data)
            require_same_tokens(text, run["data"])
            validation = place_validation(trainer, config, text)["val_loss"]
            keeps_averages = config.optimizer.optimizer == "adamw"
            for which in self.which if keeps_averages else ("raw",):
                weights = trainer.weights(state, which=which)
                loss = float(trainer.evaluate(weights, validation))
                bpb = bits_per_byte(loss, text.bytes_per_token).get("val_bpb", math.nan)
                say(f"{loss:8.4f}  {bpb:9.4f}  {name} step {state['step']} {which}")


@dataclass(frozen=True)
class Export:
    """Write the weights of a checkpoint as a safetensors file."""

    # The run at its newest checkpoint, or a checkpoint as RUN@STEP.
    run: Annotated[str, tyro.conf.Positional]
    # The file to write.
    out: Path
    # The weights as they were trained, or an average that a run with AdamW keeps.
    which: Which = "raw"

    def __call__(self) -> None:
        from safetensors.numpy import save_file

        require(not self.out.exists(), f"{self.out} is there already.")
        run, trainer, state = load_run(self.run)
        weights = trainer.weights(state, which=self.which)
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(array)
            for path, array in jax.tree.leaves_with_path(weights)
        }
        about = {"run": self.run, "step": str(state["step"]), "which": self.which}
        about["config"] = json.dumps(to_json(run["config"]))
        draft = self.out.with_name(f".{self.out.name}.tmp")
        save_file(arrays, draft, about)
        draft.rename(self.out)
        size = sum(array.size for array in arrays.values())
        say(f"{self.out}: {size:,} numbers of {self.run}, {self.which}")


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
        need = "--temperature must be in [0, 100)"
        require(0 <= self.temperature < 100, f"{need}, got {self.temperature}.")

    def __call__(self) -> None:
        run, trainer, state = load_run(self.run)
        encode, decode, end = read_codec(self.run)
        prompt = os.fsencode(self.prompt)  # any bytes, as the shell gave them
        written = sample(
            trainer.graphdef,
            trainer.weights(state, which=self.which),
            encode(prompt) or [end],
            self.tokens,
            run["config"].data.sequence_length,
            self.temperature,
            jax.random.key(self.seed),
        )
        if jax.process_index() == 0:  # what the model wrote, and nothing else
            sys.stdout.buffer.write(prompt + decode(written) + b"\n")
            sys.stdout.buffer.flush()


def sample(graphdef, params, prompt: list[int], count, length, temperature, key):
    """`count` tokens that follow a prompt, each given the last `length` at most."""
    prompt = prompt[-length:]
    window_L = jnp.zeros(length, jnp.int32)
    window_L = window_L.at[: len(prompt)].set(np.array(prompt, np.int32))

    def write(carry, key):
        window_L, filled = carry
        logits_V = nnx.merge(graphdef, params)(window_L[None])[0, filled - 1]
        if temperature == 0:
            new = jnp.argmax(logits_V)
        else:
            new = jax.random.categorical(key, logits_V / temperature)
        full = filled == length
        shifted_L = jnp.where(full, jnp.roll(window_L, -1), window_L)
        filled = filled + 1 - full
        return (shifted_L.at[filled - 1].set(new), filled), new

    keys = jax.random.split(key, count)
    _, written = jax.lax.scan(write, (window_L, len(prompt)), keys)
    return np.asarray(written).tolist()
