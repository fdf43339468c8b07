"""The metrics of a run: read from the devices, judged, written, printed."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import fmean
from typing import Any

import jax

from .data import Text
from .plan import loss_if_cooled
from .progress import Line, bits_per_byte, losses, read_metrics, say, write_metrics
from .runs import Run, flatten
from .trainer import State, Trainer

RECENT = 20  # losses whose mean is printed, and a jump measured from
MOST_SKIPPED = 10  # updates left out in a row before the run stops after all


class DivergedError(Exception):
    """The loss or the gradient is no longer finite, or the loss has jumped."""


class Recorder(ExitStack):
    """Takes the metrics of each step while the next one runs."""

    def __init__(self, run: Run, trainer: Trainer, text: Text, step: int):
        super().__init__()
        self._run, self._trainer, self._text = run, trainer, text
        self._config, self._loop = run.config, run.config.loop
        self._step = self._printed_step = step
        self._least_seconds = trainer.least_seconds(run.config)
        self._running: dict[str, Any] | None = None
        lines = [line for line in read_metrics(run.folder) if line["step"] <= step]
        recent = (line["loss"] for line in lines if "loss" in line)
        self._recent, self._skipped = deque(recent, maxlen=RECENT), 0
        self._last, self._busy = time.monotonic(), 0.0
        self._began = self._last - (lines[-1]["seconds"] if lines else 0)
        self._file, self._logs = None, []
        if jax.process_index() == 0:
            write_metrics(run.folder, lines)
            path = run.folder / "metrics.jsonl"
            self._file = self.enter_context(path.open("a", buffering=1))
            self._logs = [*self._trackers()]

    def _trackers(self) -> Iterator[Callable[[dict[str, float], int], Any]]:
        """Functions that log the numbers of a step, for the trackers asked for."""
        if self._loop.tensorboard:
            from tensorboardX import SummaryWriter

            folder = str(self._run.folder / "tensorboard")
            board = SummaryWriter(folder, purge_step=self._step + 1)
            self.callback(board.close)
            yield lambda numbers, step: [
                board.add_scalar(name, number, step) for name, number in numbers.items()
            ]
        if self._loop.trackio:
            import trackio  # pyright: ignore[reportMissingImports]

            about = {"name": self._run.folder.name, "config": flatten(self._config)}
            trackio.init(project=self._loop.trackio, resume="allow", **about)
            self.callback(trackio.finish)
            yield trackio.log

    def _write(self, line: Line) -> None:
        line = line | {"seconds": round(time.monotonic() - self._began, 3)}
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
        numbers = {name: n for name, n in line.items() if isinstance(n, float)}
        for log in self._logs:
            log(numbers, line["step"])

    def step(self, metrics: dict[str, Any] | None = None) -> None:
        """Takes the metrics of a step that may still run, and reads those before."""
        done, self._running = self._running, metrics
        if done is None:
            return
        values = {name: float(value) for name, value in done.items()}
        phase = self._config.phase(self._step)
        self._step += 1
        now = time.monotonic()
        self._last, self._busy = now, self._busy + now - self._last
        loss, most = values["loss"], self._loop.max_loss_jump
        mean = fmean(self._recent or [loss])
        what = f"step {self._step} has loss {loss:.4f}"
        if not all(map(math.isfinite, values.values())):
            what += f" and gradient norm {values['grad_norm']:.4f}"
            self._skipped += 1
            skips = self._config.optimizer.skip_nonfinite
            if not skips or self._skipped > MOST_SKIPPED:
                self._stop(what)
            say(f"{self._run.folder.name}: {what}: left out.")
            self._write({"step": self._step, "lr": values["lr"], "phase": phase})
            return
        if most and loss > mean + most:
            what += f", more than --max-loss-jump {most} above {mean:.4f}, the mean of"
            self._stop(f"{what} those before")
        self._recent.append(loss)
        self._skipped = 0
        line = {"step": self._step, **values, "phase": phase}
        self._write(line)
        if self._step % self._loop.log_every == 0:
            self._print(line)

    def _stop(self, what: str) -> None:
        self._run.checkpoints.finish()
        steps = self._run.checkpoints.steps(until=self._step)
        good = f"step {steps[-1]}" if steps else "none"
        name = self._run.folder.name
        raise DivergedError(f"{name}: {what}; the last good checkpoint: {good}.")

    def _print(self, line: Line) -> None:
        """Prints how the run goes, in a line that fits a narrow terminal."""
        steps, data = self._config.steps, self._config.data
        speed = (self._step - self._printed_step) / max(self._busy, 1e-9)
        tokens = speed * data.batch_size * data.sequence_length
        minutes, seconds = divmod(round((steps - self._step) / speed), 60)
        mfu = self._least_seconds * speed
        say(
            f"{self._step}/{steps}  loss {fmean(self._recent):.4f}  "
            f"lr {line['lr']:.1e}  {line['phase']:8}  {tokens:,.0f} tokens/s  "
            + (f"MFU ~{mfu:.0%}  " if mfu else "")
            + f"ETA {minutes}:{seconds:02d}"
        )
        self._busy, self._printed_step = 0.0, self._step

    def save(self, state: State) -> None:
        """Starts to save the state after the last step."""
        self.step()
        self._run.checkpoints.save(self._step, state)
        self._last = time.monotonic()

    def evaluate(self, state: State, validation: dict[str, jax.Array]) -> None:
        """Evaluates the weights; while stable, their average and the law's cooldown."""
        self.step()
        stable = self._config.is_stable
        line: Line = {"step": self._step}
        for which in ("raw", "ema") if stable else ("raw",):
            weights = self._trainer.weights(state, which=which)
            for name, batches in validation.items():
                name += "_ema" * (which == "ema")
                line[name] = float(self._trainer.evaluate(weights, batches))
        if stable and jax.process_index() == 0:  # the one that writes the metrics
            line |= loss_if_cooled(self._run.folder, self._config, self._step)
        line |= bits_per_byte(line["val_loss"], self._text.bytes_per_token)
        self._write(line)
        say(f"{self._step}/{self._config.steps}  {losses(line)}")
        self._last = time.monotonic()
