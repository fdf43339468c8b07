"""Ctrl-C and SIGTERM: finish the step, save, leave; a second one leaves at once."""

import os
import signal

import jax
from jax.experimental import multihost_utils

from .progress import say


class Interrupted(Exception):
    """A signal ended the run after it was saved."""

    def __init__(self, signals: "Signals", sentence: str):
        super().__init__(sentence)
        self.exit_code = 128 + (signals.number or signal.SIGTERM)


class Signals:
    """Remembers the first signal while its context is open."""

    def __init__(self):
        self.number: int | None = None
        self._before = {}

    def __enter__(self) -> "Signals":
        # With several processes JAX itself watches for SIGTERM, and tells them all.
        watched = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        for number in watched:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_at(self, step: int) -> bool:
        """Whether to stop after this step; all processes of a run agree on it."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.number is not None

    def _remember(self, number: int, frame) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        say("Stopping after this step; once more to stop at once, without saving.")
