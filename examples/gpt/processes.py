"""Several processes of one run: they meet, and go on only if they agree."""

import hashlib
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from .config import UserError, require

T = TypeVar("T")


def join_processes() -> None:
    """Joins the other processes, where JAX finds them itself or as variables say."""
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS")
    count, index, address = map(os.environ.get, names)
    if index is not None:
        print(f"Process {index} of {count} waits for all at {address}.", flush=True)
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
        )
    except ValueError as error:
        raise UserError(f"--distributed finds no other processes: {error}") from error


def agree(what: str, value: object) -> None:
    """Refuses, in all processes, something that is not the same in all of them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    others = sorted(set(np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()))
    require(not others, f"Processes {others} have other {what} than process 0.")


def in_first_process(act: Callable[[], T], refusal: str) -> T | None:
    """What the first process gets by an action; the others wait until it is done.

    What refuses the first refuses all.
    """
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = act()
        except (UserError, OSError) as caught:
            error = caught
    if jax.process_count() > 1:
        refused = multihost_utils.broadcast_one_to_all(np.array(error is not None))
        error = UserError(refusal) if refused and error is None else error
    if error is not None:
        raise error
    return result
