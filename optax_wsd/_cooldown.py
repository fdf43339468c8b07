"""Cooldown on demand: the decision to end a run is made at run time, in its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import shapes
from ._checks import MAX_STEP, check, check_float, check_int, is_traced
from ._tree import find_states, get_scalar, is_averaged, map_states, set_scalar
from .shapes import Shape


class ScaleByCooldownState(NamedTuple):
    """State of `scale_by_cooldown`."""

    cooldown_count: jax.Array  # int32 scalar, updates so far
    cooldown_start: jax.Array  # int32 scalar, 2^31 - 1 while no cooldown is planned
    cooldown_steps: jax.Array  # int32 scalar, length of the cooldown
    cooldown_scale: jax.Array  # float scalar, the multiplier of the next update
    cooldown_first_scale: jax.Array  # float scalar, the multiplier at start_step


def scale_by_cooldown(
    shape: Shape = shapes.one_minus_sqrt, *, end_scale: jax.typing.ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by 1 until `start_cooldown` is called, then down to end_scale.

        update   before start   start + k                             afterwards
        scale    1              end + (1 - end) shape(k / steps)      end_scale

    Put it last in a chain. Starting and stopping change scalars of the state: the
    compiled step and the state's tree stay the same in every phase. Training with
    `chain(adamw(s), scale_by_cooldown(f))` and `start_cooldown` at step S equals
    training with `adamw(cooldown_schedule(s, S, n, shape=f))` where s is constant from
    S on.

    Args:
        shape: Cooldown shape, see `optax_wsd.shapes`.
        end_scale: Multiplier after the cooldown, in [0, 1].

    Returns:
        A transformation whose state is five scalars.

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

    def scale(elapsed, steps):
        m = shapes.multiplier(shape, elapsed, steps)
        return jnp.asarray(end_scale + (1 - end_scale) * m)

    def init_fn(params):
        del params
        return ScaleByCooldownState(
            cooldown_count=jnp.zeros([], jnp.int32),
            cooldown_start=jnp.full([], MAX_STEP, jnp.int32),
            cooldown_steps=jnp.ones([], jnp.int32),
            cooldown_scale=jnp.ones([], float),
            cooldown_first_scale=scale(jnp.zeros([], jnp.int32), 1),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        m = state.cooldown_scale
        updates = jax.tree.map(
            lambda u: (m * u).astype(u.dtype) if is_averaged(u) else u, updates
        )
        count = optax.safe_increment(state.cooldown_count)
        return updates, state._replace(
            cooldown_count=count,
            cooldown_scale=scale(count - state.cooldown_start, state.cooldown_steps),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def start_cooldown(
    opt_state: optax.OptState,
    cooldown_steps: jax.typing.ArrayLike,
    *,
    start_step: jax.typing.ArrayLike | None = None,
) -> optax.OptState:
    """Starts a cooldown in every `scale_by_cooldown` of an optimizer state.

        update   start_step   ...   start_step + cooldown_steps - 1   afterwards
        scale    shape(0)     ...   one step above end_scale          end_scale

    Call it outside or inside jit; nothing is recompiled. A second call replaces the
    first.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it, also
            `nnx.Optimizer.opt_state` and a state restored without a target.
        cooldown_steps: Length of the cooldown in updates, >= 1.
        start_step: Number of the first update of the cooldown, counted from 0 by
            `scale_by_cooldown` itself, not in the past; default: the next update.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state, a number is not whole
            or out of range, or start_step is in the past.

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

    def start(state):
        count = get_scalar(state.cooldown_count)
        first = count if start_step is None else jnp.asarray(start_step, jnp.int32)
        if not (is_traced(count) or is_traced(first)):
            check_int("start_step", first, at_least=int(jnp.max(count)))
        now = jnp.where(first <= count, get_scalar(state.cooldown_first_scale), 1)
        return state._replace(
            cooldown_start=set_scalar(state.cooldown_start, first),
            cooldown_steps=set_scalar(state.cooldown_steps, cooldown_steps),
            cooldown_scale=set_scalar(state.cooldown_scale, now),
        )

    if start_step is not None:
        check_int("start_step", start_step)
    return _change_state(start, opt_state)


def stop_cooldown(opt_state: optax.OptState) -> optax.OptState:
    """Ends a cooldown, planned, running or over: the next update has scale 1 again.

    This is the jump of WSD-S, from the cooled weights straight back to the peak.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it.

    Returns:
        The new state, of the same tree, shapes and shardings.

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state.

    Example:
        >>> import jax.numpy as jnp
        >>> state = start_cooldown(scale_by_cooldown().init(jnp.zeros(3)), 100)
        >>> state == start_cooldown(stop_cooldown(state), 100)
        True

    References:
        Wen et al., 2024, arXiv:2410.05192, section 4.
    """

    def stop(state):
        return state._replace(
            cooldown_start=set_scalar(state.cooldown_start, MAX_STEP),
            cooldown_scale=set_scalar(state.cooldown_scale, 1),
        )

    return _change_state(stop, opt_state)


def cooldown_scale(opt_state: optax.OptState) -> jax.Array:
    """The multiplier that `scale_by_cooldown` gives the next update.

    Args:
        opt_state: Any nesting of states with `scale_by_cooldown` in it. Where there are
            several, as under `optax.partition`, the first one answers.

    Returns:
        A float32 scalar in [0, 1] (float64 under x64).

    Raises:
        ValueError: there is no `scale_by_cooldown` in opt_state.

    Example:
        >>> import jax.numpy as jnp
        >>> float(cooldown_scale(scale_by_cooldown().init(jnp.zeros(3))))
        1.0

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3.
    """
    states = find_states(opt_state, ScaleByCooldownState)
    check(len(states) > 0, "opt_state", type(opt_state).__name__, _NEED)
    return get_scalar(states[0].cooldown_scale)


_NEED = "a state with scale_by_cooldown in it"


def _change_state(fn, opt_state):
    check(
        len(find_states(opt_state, ScaleByCooldownState)) > 0,
        "opt_state",
        type(opt_state).__name__,
        _NEED,
    )
    return map_states(fn, opt_state, ScaleByCooldownState)
