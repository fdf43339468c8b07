"""A schedule in words: its phases, its values, and what in it is often a mistake."""

import jax
import numpy as np
import optax

from ._checks import MAX_STEP, check, check_int

_GRID = 20_000  # points looked at before the phases' borders are searched step by step
_FLAT = 1e-7  # change, relative to the largest value, below which it is constant
_WORDS = {1: "rising", 0: "constant", -1: "falling"}  # a change in one step: jump


def describe_schedule(schedule: optax.Schedule, total_steps: int) -> str:
    """A short report of what a schedule does in a run of total_steps updates.

    It has a line for each phase (rising, constant or falling), the first, peak and last
    value, and the value past the end. Notes point out a first update of 0, values below
    0, and schedules that still fall at total_steps or rise again past it.

    Args:
        schedule: Any schedule that traces, from this package or elsewhere.
        total_steps: Number of updates of the run, from 1 to 2^30 - 1.

    Returns:
        The report, ready to print.

    Raises:
        ValueError: schedule is not a function, or total_steps is out of range.

    Example:
        >>> import optax_wsd
        >>> lr = optax_wsd.wsd_schedule(1e-3, 100, warmup_steps=10, cooldown_steps=20)
        >>> print(describe_schedule(lr, 100))
        100 updates
                 0 -> 10          rising    0 -> 0.001
                10 -> 80          constant  0.001
                80 -> 100         falling   0.001 -> 0
        first 0, peak 0.001 at step 10, last 2.532e-05, past the end 0
        note: the first update has value 0 and moves nothing; set init_value above 0

    References:
        Warmups that are off by one, and schedules that turn negative or rise past their
        end: pytorch/torchtitan#1284, AI-Hypercomputer/maxtext#2882.
    """
    check(callable(schedule), "schedule", schedule, "a function from step to value")
    check_int("total_steps", total_steps, at_least=1)
    check(total_steps <= MAX_STEP // 2, "total_steps", total_steps, "at most 2**30 - 1")

    compiled = jax.jit(jax.vmap(schedule))

    def values(steps):
        return np.asarray(compiled(np.asarray(steps, np.int32)), np.float64)

    points = min(total_steps, _GRID) + 1
    steps = np.unique(np.linspace(0, total_steps, points, dtype=int))
    past = np.unique(np.linspace(total_steps, 2 * total_steps, 1001, dtype=int))
    value, value_past = values(steps), values(past)
    borders, directions = _phases(values, steps, np.nan_to_num(value))
    border_values = values(borders)
    lines = [f"{total_steps} updates"]
    for i, direction in enumerate(directions):
        start, end = borders[i], borders[i + 1]
        word = "jump" if direction and end - start == 1 else _WORDS[direction]
        to = f" -> {border_values[i + 1]:.4g}" if direction else ""
        lines.append(f"{start:>10} -> {end:<10}  {word:<8}  {border_values[i]:.4g}{to}")
    peak, peak_step = border_values.max(), borders[border_values.argmax()]
    lines.append(
        f"first {value[0]:.4g}, peak {peak:.4g} at step {peak_step}, "
        f"last {values([total_steps - 1])[0]:.4g}, past the end {value_past[-1]:.4g}"
    )
    seen = np.concatenate([steps, borders, past])
    notes = _notes(seen, value, border_values, value_past)
    return "\n".join(lines + [f"note: {note}" for note in notes])


def _notes(all_steps, value, border_values, value_past):
    all_values = np.concatenate([value, border_values, value_past])
    tiny = _FLAT * np.abs(all_values).max()
    if not all_values.any():
        yield "the value is 0 at every step: nothing is trained"
    elif value[0] == 0:
        yield "the first update has value 0 and moves nothing; set init_value above 0"
    if all_values.min() < 0:
        yield f"the value is below 0 at step {all_steps[all_values.argmin()]}"
    if (bad := ~np.isfinite(all_values)).any():
        yield f"the value is not finite at step {all_steps[bad].min()}"
    if value_past.min() < value[-1] - tiny:
        yield "still falling at the end of the run: it ends at a later step, or never"
    if value_past.max() > value[-1] + tiny:
        yield "rises again past the end of the run"


def _phases(values, steps, value):
    """Borders of the phases (one more than there are phases) and their directions."""
    tiny = _FLAT * np.abs(value).max()
    change = np.diff(value)
    direction = np.where(np.abs(change) <= tiny, 0, np.sign(change)).astype(int)
    turns = np.flatnonzero(np.diff(direction)) + 1
    borders = [_border(values, steps, i, direction) for i in turns]
    return np.array([0, *borders, steps[-1]]), direction[[0, *turns]]


def _border(values, steps, i, direction):
    """The step, between two points of the grid, at which direction[i - 1] ends."""
    low, high = steps[i - 1], steps[min(i + 1, len(steps) - 1)]
    if high - low <= 2:
        return steps[i]
    value = values(np.arange(low, high + 1))
    if direction[i - 1] == 0:  # the last step with the constant's value
        return low + np.flatnonzero(value == value[0])[-1]
    return low + (direction[i - 1] * value).argmax()
