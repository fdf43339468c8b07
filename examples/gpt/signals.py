"""Ctrl-C, SIGTERM and a terminal that is gone: finish the step, save, leave."""

import os
import signal

import jax
from jax.experimental import multihost_utils

from . import progress

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal ended the run after it was saved."""

    def __init__(self, signals: "Signals", sentence: str):
        super().__init__(sentence)
        self.exit_code = 128 + (signals.number or signal.SIGTERM)


class Signals:
    """Remembers the first signal while its context is open; a second leaves at once."""

    def __init__(self):
        self.number: int | None = None
        self._before = {}

    def __enter__(self) -> "Signals":
        # With several processes JAX itself watches for SIGTERM, and tells them all.
        for number in WATCHED if jax.process_count() == 1 else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_at(self, step: int) -> bool:
        """Whether to stop after this step; all processes of a run agree on it."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        if self.number is None and progress.nobody_reads:
            self.number = signal.SIGPIPE
        return self.number is not None

    def _remember(self, number: int, frame) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        progress.say("Stopping after this step; once more to stop without saving.")
