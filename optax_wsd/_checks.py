"""Argument checks: concrete values are judged at build time, traced ones pass."""

from math import inf, nan
from typing import Any

import numpy as np
import numpy.typing as npt
from jax.core import Tracer

Numbers = npt.ArrayLike
"""A list of numbers, or an array of them."""

MAX_STEP = 2**31 - 1


def check(ok: Any, argument: str, value: Any, need: str) -> None:
    """Raises the one kind of error this package has, unless all of `ok` holds."""
    if not is_traced(ok) and not np.all(ok):
        raise ValueError(f"{argument} must be {need}, got {value!r}.")


def is_traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def as_floats(values: Any) -> np.ndarray:
    """Numbers of any dtype, also bfloat16, as float64; else NaN, which fails checks."""
    try:
        values = np.asarray(values)
        is_one = values.dtype.kind not in "bcmMOSU"
        return values.astype(float) if is_one else np.asarray(nan)
    except (TypeError, ValueError):
        return np.asarray(nan)


def check_int(argument: str, value: Any, *, at_least: int = 0) -> None:
    """A step, length or count: a whole number in [at_least, 2^31 - 1]."""
    if is_traced(value):
        return
    array = np.asarray(value)
    ok = np.issubdtype(array.dtype, np.integer)
    ok = ok and (array >= at_least) & (array <= MAX_STEP)
    check(ok, argument, value, f"a whole number from {at_least} to 2**31 - 1")


def check_float(
    argument: str, value: Any, *, at_least=-inf, above=-inf, at_most=inf, below=inf
) -> None:
    """A finite number within the named bounds; NaN is within none."""
    if is_traced(value):
        return
    array = as_floats(value)
    ok = (array >= at_least) & (array > above) & (array <= at_most) & (array < below)
    bounds = {">=": at_least, ">": above, "<=": at_most, "<": below}
    need = " and ".join(f"{sign} {b}" for sign, b in bounds.items() if abs(b) < inf)
    check(ok, argument, value, f"a finite number {need}".rstrip())


def check_params(params: Any) -> None:
    need = "given to the update: tx.update(updates, state, params)"
    check(params is not None, "params", params, need)
