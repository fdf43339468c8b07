"""Checkpoints evaluated on any text, or exported to be read without this program."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from .config import Verb, require, to_json, with_changes
from .data import Text, codec, load_text
from .optimizer import Which
from .progress import bits, say
from .runs import find_step, read_manifest, read_tokenizer
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
    # Sequences to evaluate on; default: those of the runs.
    validation_sequences: int | None = None

    def __post_init__(self):
        require(bool(self.runs), "evaluate needs at least one RUN or RUN@STEP.")

    def __call__(self) -> None:
        say("val_loss  bits/byte  weights")
        for name in self.runs:
            config, trainer, state = load_run(name)
            data = {} if self.data is None else {"data": self.data, "mix": None}
            if self.validation_sequences is not None:
                data["validation_sequences"] = self.validation_sequences
            config = with_changes(config, **data)
            folder, _ = find_step(name)
            tokenizer = read_tokenizer(folder, read_manifest(folder))
            text = as_tokens(load_text(config.data), tokenizer)
            validation = place_validation(trainer, config, text)["val_loss"]
            for which in self.which:
                if which != "raw" and config.optimizer.optimizer != "adamw":
                    continue
                weights = trainer.weights(state, which=which)
                loss = float(trainer.evaluate(weights, validation))
                known = text.bytes_per_token
                bpb = f"{bits(loss, known):9.4f}" if known else "        -"
                say(f"{loss:8.4f}  {bpb}  {name} step {int(state['step'])} {which}")


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
        config, trainer, state = load_run(self.run)
        weights = trainer.weights(state, which=self.which)
        arrays = {
            ".".join(str(getattr(key, "key", key)) for key in path): np.asarray(array)
            for path, array in jax.tree.leaves_with_path(weights)
        }
        about = {"run": self.run, "step": str(state["step"]), "which": self.which}
        about["config"] = json.dumps(to_json(config))
        draft = self.out.with_name(f".{self.out.name}.tmp")
        save_file(arrays, draft, about)
        draft.rename(self.out)
        size = sum(array.size for array in arrays.values())
        say(f"{self.out}: {size:,} numbers of {self.run}, {self.which}")


def as_tokens(text: Text, tokenizer: str | None) -> Text:
    """A text as a model with this tokenizer reads it."""
    if text.tokenizer == tokenizer:
        return text
    require(text.unit == "bytes", f"{text.name} is not made of the run's tokens.")
    encode, *_ = codec(tokenizer)
    size, tokens = len(text.validation), encode(text.validation.tobytes())
    return replace(
        text, validation=np.array(tokens), bytes_per_token=size / len(tokens)
    )
