"""Cooldown on demand: the decision to end a run is made at run time, in its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import shapes
from ._checks import MAX_STEP, check, check_float, check_int, is_traced
from ._tree import (
    average_dtype,
    find_states,
    get_scalar,
    is_averaged,
    lerp,
    map_states,
    next_count,
    set_scalar,
)
from .shapes import Shape


class ScaleByCooldownState(NamedTuple):
    """State of `scale_by_cooldown`."""

    cooldown_count: jax.Array  # int32 scalar, updates so far
    cooldown_start: jax.Array  # int32 scalar, 2^31 - 1 while no cooldown is planned
    cooldown_steps: jax.Array  # int32 scalar, length of the cooldown
    cooldown_from: jax.Array  # float scalar, what falls: 1, or the multiplier reached
    cooldown_end: jax.Array  # float scalar, the end_scale of the start; -1 for none
    cooldown_scale: jax.Array  # float scalar, the multiplier of the next update
    # float (2,), shape(0) and end_scale of the transform, to tell what a start gives;
    # updates do not read it: a state may move to a transform with another shape.
    cooldown_drop: jax.Array


def scale_by_cooldown(
    shape: Shape = shapes.one_minus_sqrt, *, end_scale: jax.typing.ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by 1 until `start_cooldown` is called, then down to end_scale.

        update   before start   start + k                          afterwards
        scale    1              end + (1 - end) shape(k / steps)   end = end_scale

    Put it last in a chain. Starting and stopping change scalars of the state: the
    compiled step and the state's tree stay the same in every phase. Training with
    `chain(adamw(s), scale_by_cooldown(f))` and `start_cooldown` at step S equals
    training with `adamw(cooldown_schedule(s, S, n, shape=f))` where s is constant from
    S on.

    Args:
        shape: Cooldown shape, see `optax_wsd.shapes`.
        end_scale: Multiplier after the cooldown, in [0, 1], of cooldowns that are
            started without one.

    Returns:
        A transformation whose state is eight numbers.

    Raises:
        ValueError: shape is not a function, or end_scale is not in [0, 1].

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(optax.sgd(1.0), scale_by_cooldown(shapes.linear))
        >>> params = jnp.zeros(())
        >>> state = start_cooldown(tx.init(params), 4)
        >>> moves = []
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
        elapsed = count - state.cooldown_start
        m = shapes.multiplier(shape, elapsed, state.cooldown_steps)
        end = jnp.where(state.cooldown_end < 0, end_scale, state.cooldown_end)
        return lerp(end, state.cooldown_from, m).astype(float)

    def drop():
        first = shapes.multiplier(shape, jnp.zeros([], jnp.int32), 1)
        return jnp.stack([first, jnp.asarray(end_scale, float)])

    def init_fn(params):
        del params
        return ScaleByCooldownState(
            cooldown_count=jnp.zeros([], jnp.int32),
            cooldown_start=jnp.full([], MAX_STEP, jnp.int32),
            cooldown_steps=jnp.ones([], jnp.int32),
            cooldown_from=jnp.ones([], float),
            cooldown_end=jnp.full([], -1, float),
            cooldown_scale=jnp.ones([], float),
            cooldown_drop=drop(),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        m = scale(state, state.cooldown_count)

        def scaled(u):
            if not is_averaged(u):
                return u
            return (m * u.astype(average_dtype(u.dtype))).astype(u.dtype)

        count = next_count(state.cooldown_count)
        new = dict(cooldown_scale=scale(state, count), cooldown_drop=drop())
        state = state._replace(cooldown_count=count, **new)
        return jax.tree.map(scaled, updates), state

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

        update   start_step   ...   start_step + cooldown_steps - 1   afterwards
        scale    shape(0)     ...   one step above end_scale          end_scale

    Call it outside or inside jit; nothing is recompiled. With start_step, a second call
    replaces the first. Without, it may be called at every step: while a cooldown of
    that length and end runs, or is over, it changes nothing; one of another length or
    end goes on from the multiplier reached. `stop_cooldown` is the way back up.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it, also
            `nnx.Optimizer.opt_state` and a state restored without a target.
        cooldown_steps: Length of the cooldown in updates, >= 1.
        start_step: Number of the first update of the cooldown, counted from 0 by
            `scale_by_cooldown` itself, not in the past; default: the next update.
        end_scale: Multiplier after this cooldown, in [0, 1]; default: that of
            `scale_by_cooldown`.
        which: Name of the one to start where there are several: a key of
            `optax.named_chain` or a label of `optax.partition`; default: all.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state or none named `which`,
            a number is not whole or out of range, or start_step is in the past.

    Example:
        >>> import jax.numpy as jnp
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
        now = state.cooldown_count
        age = now - state.cooldown_start
        least = 0 if is_traced(now) else int(jnp.max(now))
        shape_start, own_end = jnp.moveaxis(state.cooldown_drop, -1, 0)
        first, reached, is_same = now, state.cooldown_from, False
        if start_step is None:
            # Before its first update a cooldown has not moved from where it starts.
            reached = jnp.where(age > 0, state.cooldown_scale, reached)
            is_same = (age >= 0) & (state.cooldown_steps == cooldown_steps)
            if end_scale is not None:
                is_same &= state.cooldown_end == jnp.asarray(end_scale, reached.dtype)
        else:
            check_int("start_step", start_step, at_least=least)
            first, reached = jnp.asarray(start_step, jnp.int32), 1.0
        end = own_end if end_scale is None else end_scale
        scale = jnp.where(first <= now, lerp(end, reached, shape_start), reached)
        values = {
            "cooldown_start": first,
            "cooldown_steps": cooldown_steps,
            "cooldown_from": reached,
            "cooldown_end": -1 if end_scale is None else end_scale,
            "cooldown_scale": scale,
        }
        return {n: jnp.where(is_same, getattr(state, n), values[n]) for n in values}

    return _change(opt_state, which, start)


def stop_cooldown(
    opt_state: optax.OptState, *, which: str | None = None
) -> optax.OptState:
    """Ends a cooldown, planned, running or over: the next update has scale 1 again.

    This is the jump of WSD-S, from the cooled weights straight back to the peak.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it.
        which: As in `start_cooldown`.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state, or none named `which`.

    Example:
        >>> import jax.numpy as jnp
        >>> state = start_cooldown(scale_by_cooldown().init(jnp.zeros(3)), 100)
        >>> float(cooldown_scale(stop_cooldown(state))), int(state.cooldown_steps)
        (1.0, 100)

    References:
        Wen et al., 2024, arXiv:2410.05192, section 4.
    """
    # Every start says how it ends, so that cooldown_end may stay.
    values = {"cooldown_start": MAX_STEP, "cooldown_from": 1, "cooldown_scale": 1}
    return _change(opt_state, which, lambda state: values)


def cooldown_scale(opt_state: optax.OptState, *, which: str | None = None) -> jax.Array:
    """The multiplier that `scale_by_cooldown` gives the next update.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it. A state that
            moves to a transform with another shape tells of that from the transform's
            first update on.
        which: As in `start_cooldown`; of several the first one answers.

    Returns:
        A float32 scalar in [0, 1] (float64 under x64); of a stacked state, an array.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state, or none named `which`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(cooldown_scale(scale_by_cooldown().init(jnp.zeros(3))))
        1.0

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    state, *_ = _find(opt_state, which)
    return get_scalar(state.cooldown_scale)


def _find(opt_state, which):
    found = find_states(opt_state, ScaleByCooldownState, which=which)
    need = "a state with scale_by_cooldown in it"
    check(len(found) > 0, "opt_state", type(opt_state).__name__, need)
    return found.values()


def _change(opt_state, which, values_of):
    """The state with new values in its cooldowns, computed from their plain arrays."""
    _find(opt_state, which)

    def change(state):
        values = values_of(ScaleByCooldownState(*map(get_scalar, state)))
        return state._replace(
            **{name: set_scalar(getattr(state, name), values[name]) for name in values}
        )

    return map_states(change, opt_state, ScaleByCooldownState, which=which)
