"""Checkpoints evaluated on any text, or exported to be read without this program."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from .config import Verb, require, to_json, with_changes
from .data import Text, codec, load_text
from .optimizer import Which
from .progress import bits_per_byte, say
from .train import Loaded, load_run, place_validation


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
        changes = {} if self.data is None else {"data": self.data, "mix": None}
        if self.validation_sequences is not None:
            changes["validation_sequences"] = self.validation_sequences
        for name in self.runs:
            run = load_run(name)
            config = with_changes(run.config, **changes)
            text = in_words_of(run, load_text(config.data))
            validation = place_validation(run.trainer, config, text)["val_loss"]
            for which in self.which:
                if which != "raw" and config.optimizer.optimizer != "adamw":
                    continue
                weights = run.trainer.weights(run.state, which=which)
                loss = float(run.trainer.evaluate(weights, validation))
                bpb = bits_per_byte(loss, text.bytes_per_token).get("val_bpb", math.nan)
                say(f"{loss:8.4f}  {bpb:9.4f}  {name} step {run.state['step']} {which}")


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
        run = load_run(self.run)
        weights = run.trainer.weights(run.state, which=self.which)
        arrays = {
            ".".join(str(getattr(key, "key", key)) for key in path): np.asarray(array)
            for path, array in jax.tree.leaves_with_path(weights)
        }
        about = {"run": self.run, "step": str(run.state["step"]), "which": self.which}
        about["config"] = json.dumps(to_json(run.config))
        draft = self.out.with_name(f".{self.out.name}.tmp")
        save_file(arrays, draft, about)
        draft.rename(self.out)
        size = sum(array.size for array in arrays.values())
        say(f"{self.out}: {size:,} numbers of {self.run}, {self.which}")


def in_words_of(run: Loaded, text: Text) -> Text:
    """A text as the model of a run reads it."""
    others = f"{text.name} is not made of the run's tokens."
    if text.unit == run.unit:
        require(text.tokenizer == run.tokenizer, others)
        return text
    require(text.unit == "bytes" and run.tokenizer is not None, others)
    encode, *_ = codec(run.tokenizer)
    size, tokens = len(text.validation), np.array(encode(text.validation.tobytes()))
    return replace(text, validation=tokens, bytes_per_token=size / len(tokens))
