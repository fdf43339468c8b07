"""Cooldown on demand: the decision to end a run is made at run time, in its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import _tree, shapes
from ._checks import MAX_STEP, check, check_float, check_int, is_traced
from .shapes import Shape


class ScaleByCooldownState(NamedTuple):
    """State of `scale_by_cooldown`."""

    cooldown_count: jax.Array  # int32 scalar, updates so far
    cooldown_start: jax.Array  # int32 scalar, 2^31 - 1 while no cooldown is planned
    cooldown_steps: jax.Array  # int32 scalar, length of the cooldown
    cooldown_from: jax.Array  # float scalar, what falls: 1, or the multiplier reached
    cooldown_end: jax.Array  # float scalar, the start's end_scale; -1 for none
    cooldown_scale: jax.Array  # float scalar, the multiplier of the next update
    # Updates write these and never read them: a state may move to another shape.
    cooldown_shape_start: jax.Array  # float scalar, shape(0), for `cooldown_scale`
    cooldown_own_end: jax.Array  # float scalar, end_scale, for `cooldown_scale`


def scale_by_cooldown(
    shape: Shape = shapes.one_minus_sqrt, *, end_scale: jax.typing.ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by 1 until `start_cooldown` is called, then down to end_scale.

        update   before start   start + k                          afterwards
        scale    1              end + (1 - end) shape(k / steps)   end = end_scale

    Put it last in a chain. Starting and stopping only change scalars in the state, so
    every phase has the same compiled step and the same state tree. If s is constant
    from S on, `chain(adamw(s), scale_by_cooldown(f))` with `start_cooldown` at step S
    equals `adamw(cooldown_schedule(s, S, n, shape=f))`.

    Args:
        shape: Cooldown shape, see `optax_wsd.shapes`.
        end_scale: Multiplier afterwards, in [0, 1], unless `start_cooldown` gives one.

    Returns:
        A transformation whose state is eight numbers.

    Raises:
        ValueError: shape is not a function, or end_scale is not in [0, 1].

    Example:
        >>> tx = optax.chain(optax.sgd(1.0), scale_by_cooldown(shapes.linear))
        >>> params, moves = jnp.zeros(()), []
        >>> state = start_cooldown(tx.init(params), 4)
        >>> for _ in range(6):
        ...     updates, state = tx.update(jnp.ones(()), state, params)
        ...     moves.append(float(updates))
        >>> moves
        [-1.0, -0.75, -0.5, -0.25, -0.0, -0.0]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    shapes.check_shape(shape)
    check_float("end_scale", end_scale, at_least=0, at_most=1)

    def scale(state, count):
        start, steps = state.cooldown_start, state.cooldown_steps
        return _scale(state, shapes.multiplier(shape, count - start, steps), end_scale)

    def own():
        start = shapes.multiplier(shape, jnp.zeros([], jnp.int32), 1).astype(float)
        end = jnp.array(end_scale, float)
        return dict(cooldown_shape_start=start, cooldown_own_end=end)

    def init_fn(params):
        return ScaleByCooldownState(
            cooldown_count=jnp.zeros([], jnp.int32),
            cooldown_start=jnp.full([], MAX_STEP, jnp.int32),
            cooldown_steps=jnp.ones([], jnp.int32),
            cooldown_from=jnp.ones([], float),
            cooldown_end=jnp.full([], -1, float),
            cooldown_scale=jnp.ones([], float),
            **own(),
        )

    def update_fn(updates, state, params=None, **extra_args):
        m = scale(state, state.cooldown_count)

        def scaled(u):
            if not _tree.is_averaged(u):
                return u
            return (m * u.astype(_tree.average_dtype(u.dtype))).astype(u.dtype)

        count = _tree.next_count(state.cooldown_count)
        new = dict(cooldown_count=count, cooldown_scale=scale(state, count), **own())
        return jax.tree.map(scaled, _tree.as_arrays(updates)), state._replace(**new)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def start_cooldown(
    opt_state: optax.OptState,
    cooldown_steps: jax.typing.ArrayLike,
    *,
    start_step: jax.typing.ArrayLike | None = None,
    end_scale: jax.typing.ArrayLike | None = None,
    which: str | None = None,
) -> optax.OptState:
    """Starts a cooldown in the `scale_by_cooldown` of an optimizer state.

    The last of its cooldown_steps updates has a scale one step above end_scale. Call it
    outside or inside jit; nothing is recompiled. With start_step, a second call
    replaces the first. Without it you may call it at every step: a call changes nothing
    while a cooldown of that length and end runs or is over, and one with another length
    or end goes on from the multiplier reached. To go back up, call `stop_cooldown`.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown`, as for `eval_params`.
        cooldown_steps: Length of the cooldown in updates, >= 1.
        start_step: Number of the first update of the cooldown, counted from 0 by
            `scale_by_cooldown` itself, not in the past; default: the next update.
        end_scale: Multiplier after it, in [0, 1]; default: that of `scale_by_cooldown`.
        which: Key in `optax.named_chain` or label in `optax.partition`; default: all.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state or none named `which`,
            a number is not whole or out of range, or start_step is in the past.

    Example:
        >>> state = scale_by_cooldown().init(jnp.zeros(3))
        >>> state = start_cooldown(state, 100, start_step=2000)
        >>> int(state.cooldown_start), float(cooldown_scale(state))
        (2000, 1.0)

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    check_int("cooldown_steps", cooldown_steps, at_least=1)
    if end_scale is not None:
        check_float("end_scale", end_scale, at_least=0, at_most=1)

    def start(state):
        now, top = state.cooldown_count, state.cooldown_from
        end = jnp.asarray(-1 if end_scale is None else end_scale, top.dtype)
        if start_step is None:
            elapsed = now - state.cooldown_start
            is_same = (elapsed >= 0) & (state.cooldown_steps == cooldown_steps)
            is_same &= (end_scale is None) | (state.cooldown_end == end)
            # Before its first update a cooldown has not moved from where it starts.
            first, top = now, jnp.where(elapsed > 0, state.cooldown_scale, top)
        else:
            least = 0 if is_traced(now) else int(jnp.max(now))
            check_int("start_step", start_step, at_least=least)
            first, top, is_same = jnp.asarray(start_step, now.dtype), 1.0, False
        places = dict(cooldown_start=first, cooldown_steps=cooldown_steps)
        new = state._replace(cooldown_from=top, cooldown_end=end, **places)
        m = jnp.where(first <= now, state.cooldown_shape_start, 1)
        new = new._replace(cooldown_scale=_scale(new, m, state.cooldown_own_end))
        return jax.tree.map(lambda old, new: jnp.where(is_same, old, new), state, new)

    return _change(opt_state, which, start)


def stop_cooldown(
    opt_state: optax.OptState, *, which: str | None = None
) -> optax.OptState:
    """Ends a cooldown, planned, running or over: the next update has scale 1 again.

    This is the jump of WSD-S, from the cooled weights straight back to the peak.

    Args:
        opt_state, which: As in `start_cooldown`.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state, or none named `which`.

    Example:
        >>> state = start_cooldown(scale_by_cooldown().init(jnp.zeros(3)), 100)
        >>> float(cooldown_scale(stop_cooldown(state))), int(state.cooldown_steps)
        (1.0, 100)

    References:
        Wen et al., 2024, arXiv:2410.05192, section 4.
    """
    # Every start says how it ends, so that cooldown_end may stay.
    stable = dict(cooldown_start=MAX_STEP, cooldown_from=1, cooldown_scale=1)
    return _change(opt_state, which, lambda state: state._replace(**stable))


def cooldown_scale(opt_state: optax.OptState, *, which: str | None = None) -> jax.Array:
    """The multiplier that `scale_by_cooldown` gives the next update.

    Args:
        opt_state: As in `start_cooldown`. If a state moves to a transform with another
            shape, the multiplier is that shape's from the next update on.
        which: As in `start_cooldown`; by default the first one answers.

    Returns:
        A float32 scalar in [0, 1] (float64 under x64); of a stacked state, an array.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state, or none named `which`.

    Example:
        >>> float(cooldown_scale(scale_by_cooldown().init(jnp.zeros(3))))
        1.0

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    state, *_ = _find(opt_state, which)
    return _tree.get_scalar(state.cooldown_scale)


def _scale(state, m, own_end):
    """The multiplier at the shape's value m."""
    end = jnp.where(state.cooldown_end < 0, own_end, state.cooldown_end)
    return _tree.lerp(end, state.cooldown_from, m).astype(float)


def _find(opt_state, which):
    found = _tree.find_states(opt_state, ScaleByCooldownState, which=which)
    need = "a state with scale_by_cooldown in it"
    check(len(found) > 0, "opt_state", type(opt_state).__name__, need)
    return found.values()


def _change(opt_state, which, new):
    """The state with `new` of its cooldowns, as computed from their plain arrays."""
    _find(opt_state, which)

    def change(state):
        values = new(ScaleByCooldownState(*map(_tree.get_scalar, state)))
        return ScaleByCooldownState(*map(_tree.set_scalar, state, values))

    return _tree.map_states(change, opt_state, ScaleByCooldownState, which=which)
