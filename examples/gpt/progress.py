"""What a run says while it trains, and the metrics.jsonl that it leaves behind."""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

Line = dict[str, Any]
RECENT = 20  # losses whose mean a jump is measured from

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


class Metrics:
    """One JSON object a line, flushed; on resume cut back to the checkpoint's step."""

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        path = folder / "metrics.jsonl"
        lines = [line for line in read_metrics(folder) if line["step"] <= step]
        losses = (line["loss"] for line in lines if "loss" in line)
        self.last_losses = deque(losses, maxlen=RECENT)
        self._seconds = lines[-1]["seconds"] if lines else 0.0
        self._since = time.monotonic()
        self._file = self._events = None
        if jax.process_index() == 0:
            draft = path.with_name(path.name + ".tmp")
            draft.write_text("".join(json.dumps(line) + "\n" for line in lines))
            draft.replace(path)
            self._file = path.open("a")
            self._events = _summary_writer(folder, step) if tensorboard else None

    def write(self, line: Line) -> None:
        seconds = self._seconds + time.monotonic() - self._since
        line = line | {"seconds": round(seconds, 3)}
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self._events.add_scalar(name, value, line["step"])

    def close(self) -> None:
        for writer in (self._file, self._events):
            if writer is not None:
                writer.close()


def read_metrics(folder: Path) -> list[Line]:
    """A run's metrics in the order of their steps: of each update, then evaluation.

    Lines that were cut short, or hold what no run writes, do not count; of lines for
    the same step the last does.
    """
    path, lines = folder / "metrics.jsonl", {}
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if _is_metrics(line):
            lines[line["step"], "val_loss" in line] = line
    return [lines[key] for key in sorted(lines)]


def _is_metrics(line: Any) -> bool:
    """Whether a line has a step and numbers, as `Metrics` writes them."""
    if not isinstance(line, dict) or not {"step", "seconds"} <= line.keys():
        return False
    numbers = [value for name, value in line.items() if name != "phase"]
    return (
        all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
        and type(line["step"]) is int
        and line["step"] >= 1
    )


def read_evaluations(folder: Path) -> list[Line]:
    return [line for line in read_metrics(folder) if "val_loss" in line]


class Printer:
    """Prints how a run goes, in lines that fit a narrow terminal."""

    def __init__(
        self, step: int, steps: int, tokens_per_step: int, least_seconds: float
    ):
        self._steps, self._tokens = steps, tokens_per_step
        self._least_seconds = (
            least_seconds  # of a step, at the devices' peak; 0 unknown
        )
        self._losses: list[float] = []
        self._printed_at, self._printed_step = time.monotonic(), step

    def step(self, line: Line, due: bool) -> None:
        """Takes the metrics of a step, and prints a line when one is due."""
        self._losses.append(line["loss"])
        if not due:
            return
        now, step = time.monotonic(), line["step"]
        rate = (step - self._printed_step) / max(now - self._printed_at, 1e-9)
        loss = sum(self._losses) / len(self._losses)
        minutes, seconds = divmod(round((self._steps - step) / rate), 60)
        mfu = self._least_seconds * rate
        estimate = f"MFU about {mfu:.0%}  " if mfu else ""
        say(
            f"{step}/{self._steps}  loss {loss:.4f}  lr {line['lr']:.1e}  "
            f"{line['phase']:8}  {rate * self._tokens:,.0f} tokens/s  {estimate}"
            f"ETA {minutes}:{seconds:02d}"
        )
        self._losses, self._printed_at, self._printed_step = [], now, step

    def evaluation(self, line: Line) -> None:
        say(f"{line['step']}/{self._steps}  {losses(line)}")

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """For work whose time does not count against the speed."""
        started_at = time.monotonic()
        yield
        self._printed_at += time.monotonic() - started_at


def bits_per_byte(nats: float, bytes_per_token: float | None) -> dict[str, float]:
    """The loss that compares runs whatever their tokens are, where it is known."""
    if bytes_per_token is None:
        return {}
    return {"val_bpb": nats / math.log(2) / bytes_per_token}


def _summary_writer(folder: Path, step: int):
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
