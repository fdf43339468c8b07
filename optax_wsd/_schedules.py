"""Schedules: pure functions from an optax count to a value, exact at any int32 step.

All but one are built from two parts: a warmup to the peak, and a fall from the value at
one step to another value. Every number may be a traced or vmapped array.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import _tree, shapes
from ._checks import MAX_STEP, Numbers, check, check_float, check_int, is_traced


def wsd_schedule(
    peak_value: jax.typing.ArrayLike,
    total_steps: jax.typing.ArrayLike,
    *,
    warmup_steps: jax.typing.ArrayLike,
    cooldown_steps: jax.typing.ArrayLike,
    init_value: jax.typing.ArrayLike = 0.0,
    end_value: jax.typing.ArrayLike = 0.0,
    shape: shapes.Shape = shapes.one_minus_sqrt,
) -> optax.Schedule:
    """Linear warmup, a flat stable phase at the peak, then a cooldown: WSD.

        step    0 -> warmup_steps -> total_steps - cooldown_steps -> total_steps
        value   init -> peak      -> peak                         -> end, for ever

    In the cooldown the value is end + (peak - end) shape(p) with
    p = (step - (total_steps - cooldown_steps)) / cooldown_steps. A run of total_steps
    updates uses steps 0 to total_steps - 1: its last update is one step above the end.

    Args:
        peak_value: Value of the stable phase, >= 0.
        total_steps: Step from which the value is end_value, >= 1.
        warmup_steps: Steps from init_value to the peak; 0 starts at the peak.
        cooldown_steps: Steps from the peak to end_value; with 0 the peak never ends.
        init_value: Value at step 0 of a warmup, >= 0. At 0, the first update is lost.
        end_value: Value from total_steps on, >= 0.
        shape: Cooldown shape, see `optax_wsd.shapes`.

    Returns:
        A schedule: int step, or array of steps, to float32 (float64 under x64).

    Raises:
        ValueError: a number is out of range, the phases are longer than total_steps, or
            shape is not a function. Traced arguments are not checked.

    Example:
        >>> lr = wsd_schedule(1.0, 100, warmup_steps=10, cooldown_steps=20)
        >>> [round(float(lr(t)), 3) for t in (0, 5, 50, 85, 100, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]

    References:
        Hu et al. (MiniCPM), 2024, arXiv:2404.06395, section 4; Hägele et al., 2024,
        arXiv:2405.18392, section 3.
    """
    check_int("total_steps", total_steps, at_least=1)
    check_int("cooldown_steps", cooldown_steps)
    check_float("end_value", end_value, at_least=0)
    stable = _warmup_schedule(peak_value, warmup_steps, init_value)
    fits = _int64(warmup_steps) + _int64(cooldown_steps) <= _int64(total_steps)
    need = f"at most total_steps ({total_steps})"
    check(fits, "warmup_steps + cooldown_steps", (warmup_steps, cooldown_steps), need)
    start_step = total_steps - jnp.asarray(cooldown_steps)
    return _fall(stable, start_step, cooldown_steps, end_value, shape)


def cooldown_schedule(
    schedule: optax.ScalarOrSchedule,
    start_step: jax.typing.ArrayLike,
    cooldown_steps: jax.typing.ArrayLike,
    *,
    end_value: jax.typing.ArrayLike = 0.0,
    shape: shapes.Shape = shapes.one_minus_sqrt,
) -> optax.Schedule:
    """Any schedule, cooled down from the value it has at start_step.

        step    before start_step   start_step + k                      afterwards
        value   schedule(step)      end + (v - end) shape(k / steps)    end_value

    with v = schedule(start_step), which is held during the cooldown.

    Args:
        schedule: The schedule to end, or a constant.
        start_step: First step of the cooldown, >= 0.
        cooldown_steps: Length of the cooldown, >= 1.
        end_value: Value from start_step + cooldown_steps on, >= 0.
        shape: Cooldown shape, see `optax_wsd.shapes`.

    Returns:
        A schedule.

    Raises:
        ValueError: a number is out of range, or shape is not a function.

    Example:
        >>> lr = cooldown_schedule(1e-3, 1000, 500, shape=shapes.linear)
        >>> [round(float(lr(t)), 6) for t in (0, 1000, 1250, 1500)]
        [0.001, 0.001, 0.0005, 0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    if not callable(schedule):
        check_float("schedule", schedule, at_least=0)
        schedule = optax.constant_schedule(schedule)
    check_int("start_step", start_step)
    check_int("cooldown_steps", cooldown_steps, at_least=1)
    check_float("end_value", end_value, at_least=0)
    return _fall(schedule, start_step, cooldown_steps, end_value, shape)


def wsds_schedule(
    peak_value: jax.typing.ArrayLike,
    end_steps: Numbers,
    *,
    warmup_steps: jax.typing.ArrayLike,
    cooldown_steps: jax.typing.ArrayLike,
    init_value: jax.typing.ArrayLike = 0.0,
    end_value: jax.typing.ArrayLike = 0.0,
    shape: shapes.Shape = shapes.one_minus_sqrt,
) -> optax.Schedule:
    """WSD-S: one run that cools down before each of several ends and goes back up.

        step    0 -> warmup  ...  end - cooldown_steps -> end - 1 | end
        value   init -> peak      peak -> one step above end_value | peak again

    After the last of end_steps the value stays at end_value.

    Args:
        peak_value: Value of the stable phases, >= 0.
        end_steps: Ends of the budgets, ascending: the first at least cooldown_steps
            after the warmup, and each as much after the one before.
        warmup_steps: Steps from init_value to the peak, once.
        cooldown_steps: Length of every cooldown, >= 1.
        init_value, end_value, shape: As in `wsd_schedule`.

    Returns:
        A schedule.

    Raises:
        ValueError: end_steps is empty, phases overlap, or a number is out of range.

    Example:
        >>> lr = wsds_schedule(1.0, (50, 100), warmup_steps=10, cooldown_steps=16)
        >>> [round(float(lr(t)), 3) for t in (34, 38, 43, 50, 88, 100, 200)]
        [1.0, 0.5, 0.25, 1.0, 0.5, 0.0, 0.0]

    References:
        Wen et al., 2024, arXiv:2410.05192, section 4.
    """
    check_int("end_steps", end_steps, at_least=1)
    check_int("cooldown_steps", cooldown_steps, at_least=1)
    check_float("end_value", end_value, at_least=0)
    stable = _warmup_schedule(peak_value, warmup_steps, init_value)
    is_list = np.ndim(end_steps) == 1 and np.size(end_steps) > 0
    check(is_list, "end_steps", end_steps, "a list")
    ends = _ascending("end_steps", end_steps, warmup_steps, cooldown_steps)
    shapes.check_shape(shape)

    def schedule(step):
        step = _int32(step)
        ended = jnp.searchsorted(ends, step, side="right")
        next_end = ends[jnp.minimum(ended, len(ends) - 1)]
        elapsed = step - (next_end - cooldown_steps)
        return _between(stable(step), end_value, shape, elapsed, cooldown_steps)

    return schedule


def multistep_schedule(
    peak_value: jax.typing.ArrayLike,
    boundaries: Numbers,
    *,
    warmup_steps: jax.typing.ArrayLike,
    scales: Numbers = (10**-0.5, 0.1),
    init_value: jax.typing.ArrayLike = 0.0,
) -> optax.Schedule:
    """DeepSeek's multi-step schedule: warmup, then constant in stages.

        step    warmup_steps ..   boundaries[0] ..         boundaries[1] ..
        value   peak_value        peak_value * scales[0]   peak_value * scales[1]

    DeepSeek LLM puts the boundaries at 80 and 90 % of the run.

    Args:
        peak_value: Value of the first stage, >= 0.
        boundaries: First step of each later stage, ascending, from warmup_steps on.
        warmup_steps: Steps from init_value to the peak.
        scales: One multiplier of the peak for each boundary, >= 0.
        init_value: As in `wsd_schedule`.

    Returns:
        A schedule.

    Raises:
        ValueError: boundaries do not ascend or fit scales, or a number is out of range.

    Example:
        >>> lr = multistep_schedule(1.0, (80, 90), warmup_steps=10)
        >>> [round(float(lr(t)), 4) for t in (5, 10, 79, 80, 90, 1000)]
        [0.5, 1.0, 1.0, 0.3162, 0.1, 0.1]

    References:
        DeepSeek-AI, 2024, arXiv:2401.02954, section 2.3.
    """
    check_int("boundaries", boundaries)
    check_float("scales", scales, at_least=0)
    stable = _warmup_schedule(peak_value, warmup_steps, init_value)
    need = f"a list of as many steps as there are scales ({scales})"
    is_list = np.ndim(boundaries) == 1 and np.shape(boundaries) == np.shape(scales)
    check(is_list, "boundaries", boundaries, need)
    starts = _ascending("boundaries", boundaries, warmup_steps, 0)
    stages = jnp.append(1.0, jnp.asarray(scales, float))

    def schedule(step):
        step = _int32(step)
        return stable(step) * stages[jnp.searchsorted(starts, step, side="right")]

    return schedule


def inverse_power_schedule(
    peak_value: jax.typing.ArrayLike,
    *,
    warmup_steps: jax.typing.ArrayLike,
    offset_steps: jax.typing.ArrayLike = 0,
    exponent: jax.typing.ArrayLike = 0.5,
    init_value: jax.typing.ArrayLike = 0.0,
) -> optax.Schedule:
    """Warmup, then a fall as a power of the step, with no end to choose.

        step    0 -> warmup_steps   later
        value   init -> peak        peak ((step + offset) / (warmup + offset))^-exponent

    An exponent of 0.5 is 1/sqrt(t) (WSqD, whose offset is the length of a pilot run);
    the Power scheduler has 0.51. End it with `cooldown_schedule`.

    Args:
        peak_value: Value at warmup_steps, >= 0.
        warmup_steps: Steps from init_value to the peak.
        offset_steps: Steps added to the clock of the fall, >= 0.
        exponent: Power of the fall, >= 0.
        init_value: As in `wsd_schedule`.

    Returns:
        A schedule.

    Raises:
        ValueError: a number is out of range, or warmup_steps + offset_steps is 0.

    Example:
        >>> lr = inverse_power_schedule(1.0, warmup_steps=100)
        >>> [round(float(lr(t)), 4) for t in (50, 100, 400, 10000)]
        [0.5, 1.0, 0.5, 0.1]

    References:
        WSqD, 2026, arXiv:2607.10959; Shen et al. (Power scheduler), 2024,
        arXiv:2408.13359.
    """
    stable = _warmup_schedule(peak_value, warmup_steps, init_value)
    check_int("offset_steps", offset_steps)
    check_float("exponent", exponent, at_least=0)
    is_above_0 = _int64(warmup_steps) + _int64(offset_steps) >= 1
    check(is_above_0, "offset_steps", offset_steps, "at least 1 with warmup_steps")
    clock_at_peak = jnp.asarray(warmup_steps, float) + offset_steps

    def schedule(step):
        step = _int32(step)
        clock = jnp.maximum(step, warmup_steps).astype(float) + offset_steps
        return stable(step) * (clock / clock_at_peak) ** -jnp.asarray(exponent, float)

    return schedule


def growing_b1_schedule(offset_steps: jax.typing.ArrayLike = 20) -> optax.Schedule:
    """A b1 for schedule-free training of any length: 1 - b1 falls as 1/sqrt(t).

        b1 = 1 - sqrt(offset / (step + offset)):   0 at step 0, 0.9 at 99 offset

    Why: at a constant rate lr, after n updates with directions d_0 to d_(n-1),

        z = y_0 - lr sum of d_i,   x = y_0 - lr sum of (1 - i / n) d_i
        y = y_0 - lr sum of (1 - b1 i / n) d_i

    so y, where gradients are taken, is where a run ends whose rate fell on a line from
    lr to (1 - b1) lr. The best last rate falls with the length of the run: a constant
    b1 fits one length, while here it falls for all as in `inverse_power_schedule`.

    Args:
        offset_steps: Steps >= 1 until 1 - b1 is 0.71; the default is that of claim 9.

    Returns:
        A schedule, for the `b1` of `schedule_free` and its relatives.

    Raises:
        ValueError: offset_steps is not a whole number >= 1.

    Example:
        >>> b1 = growing_b1_schedule()
        >>> [round(float(b1(t)), 3) for t in (0, 60, 480, 1980, 50000)]
        [0.0, 0.5, 0.8, 0.9, 0.98]

    References:
        Growing b1 by other rules: AMUSE, 2026, arXiv:2605.22432; ScheduleFree+, 2026,
        arXiv:2605.19095. This one: benchmarks/README.md, claim 9.
    """
    check_int("offset_steps", offset_steps, at_least=1)

    def schedule(step):
        step = _int32(step).astype(float)
        clock = step + offset_steps
        # 1 - sqrt(offset / clock), without the cancellation at small steps.
        return step / (clock + jnp.sqrt(clock * offset_steps))

    return schedule


def infinite_schedule(
    peak_value: jax.typing.ArrayLike,
    constant_value: jax.typing.ArrayLike,
    *,
    warmup_steps: jax.typing.ArrayLike,
    transition_steps: jax.typing.ArrayLike,
    init_value: jax.typing.ArrayLike = 0.0,
    shape: shapes.Shape = shapes.cosine,
) -> optax.Schedule:
    """Warmup, a fall to a constant, and that constant for ever: continual training.

        step    0 -> warmup_steps -> warmup_steps + transition_steps -> for ever
        value   init -> peak      -> constant_value                  -> constant_value

    New data needs no new warmup. End a run, or a branch, with `cooldown_schedule`.

    Args:
        peak_value: Value at warmup_steps, >= 0.
        constant_value: Value that is kept, >= 0.
        warmup_steps: Steps from init_value to the peak.
        transition_steps: Steps from the peak to constant_value, >= 1.
        init_value, shape: As in `wsd_schedule`; the shape is that of the fall.

    Returns:
        A schedule.

    Raises:
        ValueError: a value or length is out of range, or shape is not a function.

    Example:
        >>> lr = infinite_schedule(1.0, 0.5, warmup_steps=10, transition_steps=20)
        >>> [round(float(lr(t)), 3) for t in (5, 10, 20, 30, 1000)]
        [0.5, 1.0, 0.75, 0.5, 0.5]

    References:
        Ibrahim et al., 2024, arXiv:2403.08763, section 5; Singh et al., 2025,
        arXiv:2503.02844.
    """
    check_float("constant_value", constant_value, at_least=0)
    check_int("transition_steps", transition_steps, at_least=1)
    stable = _warmup_schedule(peak_value, warmup_steps, init_value)
    return _fall(stable, warmup_steps, transition_steps, constant_value, shape)


def _warmup_schedule(peak_value, warmup_steps, init_value) -> optax.Schedule:
    """A line from init_value at step 0 to peak_value at warmup_steps, then the peak."""
    check_float("peak_value", peak_value, at_least=0)
    check_int("warmup_steps", warmup_steps)
    check_float("init_value", init_value, at_least=0)

    def schedule(step):
        # A warmup is a linear cooldown that runs backwards.
        left = warmup_steps - _int32(step)
        return _between(peak_value, init_value, shapes.linear, left, warmup_steps)

    return schedule


def _fall(schedule, start_step, cooldown_steps, end_value, shape) -> optax.Schedule:
    """`schedule`, taken from its value at start_step to end_value."""
    shapes.check_shape(shape)

    def fallen(step):
        step = _int32(step)
        value = schedule(jnp.minimum(step, start_step))
        return _between(value, end_value, shape, step - start_step, cooldown_steps)

    return fallen


def _between(start_value, end_value, shape, elapsed, steps):
    """end + (start - end) m, exactly `start` where m is 1 and `end` where it is 0."""
    m = shapes.multiplier(shape, elapsed, steps)
    return _tree.lerp(jnp.asarray(end_value, float), jnp.asarray(start_value, float), m)


def _ascending(argument, steps, warmup_steps, apart) -> jax.Array:
    if not any(map(is_traced, (steps, warmup_steps, apart))):
        gaps = np.diff(np.append(_int64(warmup_steps), _int64(steps)))
        need = f"ascending from warmup_steps ({warmup_steps}) on, {apart} or more apart"
        check(gaps >= apart, argument, steps, need)
    return jnp.asarray(steps, jnp.int32)


def _int64(value) -> Any:
    """Steps whose sums and differences do not overflow; traced ones as they are."""
    return value if is_traced(value) else np.asarray(value, np.int64)


def _int32(step: Any) -> jax.Array:
    """A count, or an array of counts, as int32; refuses what int32 cannot hold."""
    if not isinstance(step, jax.Array):
        check_int("step", step, at_least=-MAX_STEP)
        step = np.asarray(step, np.int32)
    # The values of a jax.Array are not looked at: that would wait for the device.
    check(jnp.issubdtype(step.dtype, jnp.integer), "step", step, "a whole number")
    if jnp.iinfo(step.dtype).max > MAX_STEP:
        step = jnp.minimum(step, MAX_STEP)
    return jnp.asarray(step, jnp.int32)
