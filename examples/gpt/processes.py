"""The processes of a run: they meet, agree, and stop together when they are told to."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

import jax
import numpy as np
from jax.experimental import multihost_utils

from . import progress
from .checkpoints import sha256
from .config import UserError, require


def join_processes() -> None:
    """Joins the other processes, where JAX finds them itself or as variables say."""
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS")
    count, index, address = map(os.environ.get, names)
    if index is not None:
        print(f"Process {index} of {count} waits for all at {address}.", flush=True)
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(index) if index else None,
        )
    except ValueError as error:
        raise UserError(f"--distributed finds no other processes: {error}") from error


def agree(what: str, value: object) -> None:
    """Refuses, in all processes, something that is not the same in all of them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(sha256(repr(value)).encode(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    others = sorted(set(np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()))
    require(not others, f"Processes {others} have other {what} than process 0.")


def in_first_process(act: Callable[[], object], refusal: str) -> None:
    """Acts in the first process while the others wait; what refuses it refuses all."""
    error = None
    if jax.process_index() == 0:
        try:
            act()
        except (UserError, OSError) as caught:
            error = caught
    if jax.process_count() > 1:
        refused = multihost_utils.broadcast_one_to_all(np.array(error is not None))
        error = UserError(refusal) if refused and error is None else error
    if error is not None:
        raise error


class Interrupted(Exception):
    """A signal of this number ended the run after it was saved."""

    def __init__(self, sentence: str, number: int | None):
        super().__init__(sentence)
        self.exit_code = 128 + (number or signal.SIGTERM)


class Signals(ExitStack):
    """Remembers the first signal until it is closed; a second leaves at once."""

    def __init__(self):
        super().__init__()
        self.number: int | None = None
        # With several processes JAX itself watches for SIGTERM, and tells them all.
        watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in watched if jax.process_count() == 1 else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                before = signal.signal(number, self._remember)
                self.callback(signal.signal, number, before)

    def stop_at(self, step: int) -> bool:
        """Whether to stop after this step; all processes of a run agree on it."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        if progress.nobody_reads:
            self.number = self.number or signal.SIGPIPE
        return self.number is not None

    def _remember(self, number: int, frame) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        progress.say("Stopping after this step; once more to stop without saving.")
