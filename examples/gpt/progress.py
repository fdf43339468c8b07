"""What a run says, and the metrics.jsonl that it leaves behind."""

import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

Line = dict[str, Any]

nobody_reads = False  # the pipe that this program prints to is closed


def say(sentence: str) -> None:
    """Prints a line as it is, in the first process only."""
    global nobody_reads
    if jax.process_index() == 0:
        try:
            print(sentence, flush=True)
        except OSError:
            nobody_reads = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_done(folder: Path, evaluation: Line) -> None:
    """Prints how a run ended."""
    say(f"{folder} is done: step {evaluation['step']}  {losses(evaluation)}")


def losses(line: Line) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in line.items() if k.startswith("val_"))


def bits_per_byte(nats: float, bytes_per_token: float | None) -> dict[str, float]:
    """The loss that compares runs whatever their tokens are, where it is known."""
    if bytes_per_token is None:
        return {}
    return {"val_bpb": nats / math.log(2) / bytes_per_token}


def write_metrics(folder: Path, lines: Iterable[Line]) -> None:
    """Writes the metrics of a run anew: one JSON object a line."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(folder / "metrics.jsonl", text)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_metrics(folder: Path) -> list[Line]:
    """A run's metrics in the order of their steps: of each update, then evaluation.

    Of lines for the same step the last counts, and none that no run writes.
    """
    path, lines = folder / "metrics.jsonl", {}
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            values = {k: v for k, v in line.items() if k != "phase"}
            good = type(line["step"]) is int and line["step"] >= 1
            if good and math.isfinite(sum(values.values())) and "seconds" in line:
                lines[line["step"], "val_loss" in line] = line
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
            continue
    return [lines[key] for key in sorted(lines)]


def read_evaluations(folder: Path) -> list[Line]:
    return [line for line in read_metrics(folder) if "val_loss" in line]
