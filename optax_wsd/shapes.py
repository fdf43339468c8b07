"""Cooldown shapes: functions from progress in [0, 1] to a multiplier from 1 to 0.

    p   0 (cooldown starts)  ->  1 (cooldown is over)
    m   1                    ->  0

A shape is a plain function, and you can pass your own:

    >>> import optax_wsd
    >>> lr = optax_wsd.cooldown_schedule(1.0, 50, 50, shape=lambda p: (1 - p) ** 3)
    >>> float(lr(75))
    0.125

The shapes below are also known as functions of what remains, q = 1 - p. That keeps a
schedule's relative error at rounding down to its last step, where 1 - p would lose it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check, check_float, is_traced

__all__ = [
    "Shape",
    "cosine",
    "exponential",
    "linear",
    "lowered_linear",
    "mirror_cosine",
    "one_minus_power",
    "one_minus_sqrt",
    "one_minus_square",
    "power",
]

Shape = Callable[[Any], Any]
"""A function from progress to a multiplier, of floats and arrays alike."""


def linear(p: Any) -> Any:
    """1 - p.

    Example:
        >>> [linear(p) for p in (0.0, 0.25, 1.0)]
        [1.0, 0.75, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3; as a whole schedule (linear
        decay to zero): Bergsma et al., 2025, arXiv:2502.15938.
    """
    return 1 - p


def one_minus_sqrt(p: Any) -> Any:
    """1 - sqrt(p): falls fast, then slowly; the default of this package.

    Example:
        >>> [round(float(one_minus_sqrt(p)), 4) for p in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.5, 0.2929, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3 ("1-sqrt").
    """
    return one_minus_power(0.5)(p)


def one_minus_square(p: Any) -> Any:
    """1 - p^2: stays high, then falls fast.

    Example:
        >>> [one_minus_square(p) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.75, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, appendix.
    """
    return one_minus_power(2.0)(p)


def cosine(p: Any) -> Any:
    """(1 + cos(pi p)) / 2.

    Example:
        >>> [round(float(cosine(p)), 4) for p in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.8536, 0.5, 0.0]

    References:
        Loshchilov and Hutter, 2017, arXiv:1608.03983, equation 5.
    """
    return (1 + jnp.cos(math.pi * p)) / 2


def mirror_cosine(p: Any) -> Any:
    """2 (1 - p) - cosine(p): the cosine mirrored at the straight line.

    Example:
        >>> [round(float(mirror_cosine(p)), 4) for p in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.6464, 0.5, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, appendix.
    """
    return 2 * (1 - p) - cosine(p)


def power(exponent: jax.typing.ArrayLike) -> Shape:
    """(1 - p)^exponent.

    Args:
        exponent: Greater than 0; 1 is `linear`.

    Returns:
        A shape.

    Raises:
        ValueError: exponent is not a number > 0.

    Example:
        >>> power(2.0)(0.5)
        0.25

    References:
        Luo et al., 2025, arXiv:2503.12811, whose best schedules have 1.65 to 1.75.
    """
    check_float("exponent", exponent, above=0)
    return _exact_near_end(lambda p: (1 - p) ** exponent, lambda q: q**exponent)


def one_minus_power(exponent: jax.typing.ArrayLike) -> Shape:
    """1 - p^exponent: falls fast, then slowly, below 1; slowly, then fast, above.

    Args:
        exponent: Above 0; 0.5 is `one_minus_sqrt`, 1 `linear`, 2 `one_minus_square`.

    Returns:
        A shape.

    Raises:
        ValueError: exponent is not a number > 0.

    Example:
        >>> [one_minus_power(3.0)(p) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.875, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3 and appendix, for 0.5 and 2.
    """
    check_float("exponent", exponent, above=0)
    return _exact_near_end(
        lambda p: 1 - p**exponent, lambda q: -jnp.expm1(exponent * jnp.log1p(-q))
    )


def lowered_linear(level: jax.typing.ArrayLike = 0.7) -> Shape:
    """level (1 - p): drops to level at once, then falls on a line.

    Args:
        level: Multiplier at the start of the cooldown, in (0, 1].

    Returns:
        A shape.

    Raises:
        ValueError: level is not a number in (0, 1].

    Example:
        >>> [round(lowered_linear(0.7)(p), 4) for p in (0.0, 0.5, 1.0)]
        [0.7, 0.35, 0.0]

    References:
        Dremov et al., 2025, arXiv:2508.01483, section 4.
    """
    check_float("level", level, above=0, at_most=1)
    return _exact_near_end(lambda p: level * (1 - p), lambda q: level * q)


def exponential(ratio: jax.typing.ArrayLike) -> Shape:
    """(ratio^p - ratio) / (1 - ratio): geometric fall by `ratio`, shifted to 0.

    With `end_value = ratio * peak_value` a schedule is exactly peak_value * ratio^p.

    Args:
        ratio: Last over first value of the geometric fall, in (0, 1).

    Returns:
        A shape.

    Raises:
        ValueError: ratio is not a number in (0, 1).

    Example:
        >>> [round(float(exponential(0.01)(p)), 4) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.0909, 0.0]

    References:
        Hu et al. (MiniCPM), 2024, arXiv:2404.06395, section 4.
    """
    check_float("ratio", ratio, above=0, below=1)
    return _exact_near_end(
        lambda p: (ratio**p - ratio) / (1 - ratio),
        lambda q: ratio * jnp.expm1(-jnp.log(ratio) * q) / (1 - ratio),
    )


def _exact_near_end(shape: Shape, of_remaining: Shape) -> Shape:
    """The shape, which now carries itself as a function of q = 1 - p."""
    shape.of_remaining = of_remaining  # pyright: ignore[reportFunctionMemberAccess]
    return shape


_exact_near_end(linear, lambda q: q)
_exact_near_end(one_minus_sqrt, lambda q: -jnp.expm1(jnp.log1p(-q) / 2))
_exact_near_end(one_minus_square, lambda q: q * (2 - q))
_exact_near_end(cosine, lambda q: jnp.sin(math.pi / 2 * q) ** 2)
_exact_near_end(mirror_cosine, lambda q: 2 * q - jnp.sin(math.pi / 2 * q) ** 2)


def multiplier(shape: Shape, elapsed: Any, steps: Any) -> jax.Array:
    """The shape at `elapsed` of `steps`, then shape(1); 1 before, and if steps is 0."""
    started = (elapsed >= 0) & (steps > 0)
    steps = jnp.maximum(steps, 1)
    elapsed = jnp.clip(elapsed, 0, steps)
    p = elapsed.astype(float) / steps  # of integers, so that nothing else is rounded
    value = shape(p)
    if of_remaining := getattr(shape, "of_remaining", None):
        q = (steps - elapsed).astype(float) / steps
        value = jnp.where(p < 0.5, value, of_remaining(jnp.minimum(q, 0.5)))
    return jnp.where(started, value, 1.0)


def check_shape(shape: Any) -> None:
    """Refuses what is not a shape, such as a factory like `power` left uncalled."""
    need = (
        "a function from progress in [0, 1] to a finite multiplier (power(2.0), not "
        "power; for optax.inject_hyperparams name it in static_args)"
    )
    check(callable(shape), "shape", shape, need)
    for p in (0.5, 0.0, 1.0):
        value = shape(jnp.asarray(p, float))
        is_number = hasattr(value, "dtype") or isinstance(value, float | int)
        is_finite = is_number and (is_traced(value) or np.isfinite(value))
        check(is_finite, "shape", shape, need)
