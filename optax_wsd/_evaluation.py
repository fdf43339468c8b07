"""The weights to evaluate, found in any optimizer state, and the way back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from . import _tree
from ._averaging import AVERAGES, averages_of
from ._checks import check
from ._schedule_free import ScheduleFreeState


def eval_params(
    opt_state: optax.OptState, params: Any, *, which: str | None = None
) -> Any:
    """The weights to evaluate: an average or schedule-free x, found in any state.

        state has       an average     schedule-free   nothing
        value           the average    x               params

    in the structure and dtypes of params. Integers, keys, and leaves that a mask or
    partition keeps out of the average come from params. Works under jit.

    Args:
        opt_state: Any nesting of states: chain, MultiSteps, apply_if_finite, masked,
            partition, inject_hyperparams, `nnx.Optimizer.opt_state`, Linen's
            `TrainState.opt_state`, or a state restored without a target.
        params: As trained; pass bfloat16 ones as float32 for an unrounded average.
        which: Name of the average to take if there are several: a factory's name
            ("params_ema", "schedule_free"), or a key of `optax.named_chain`.

    Returns:
        A tree like params.

    Raises:
        ValueError: a leaf has two averages and `which` names neither, `which` is not in
            the state, or the average's leaves are not those of params.

    Example:
        >>> from optax_wsd import params_ema
        >>> tx = optax.named_chain(("slow", params_ema(0.9)), ("fast", params_ema(0.5)))
        >>> state = tx.init(jnp.zeros(()))
        >>> for params in jnp.array([1.0, 2.0]):  # samples, as the updates are 0
        ...     _, state = tx.update(jnp.zeros(()), state, params)
        >>> for name in ("slow", "fast"):
        ...     print(round(float(eval_params(state, params, which=name)), 4))
        1.5263
        1.6667

    References:
        Defazio et al., 2024, arXiv:2405.15682, section 2.
    """
    return _map_leaves(_to_eval, opt_state, params, which)


def train_params(
    opt_state: optax.OptState, params: Any, *, which: str | None = None
) -> Any:
    """The params to go on training with, from those that `eval_params` gave.

        y = b1 x + (1 - b1) z    for schedule-free; else the params as they are

    Use it when a run saved only the evaluated weights and the optimizer state. From an
    average the params cannot be found, so training then goes on from the average.

    Args:
        opt_state: Any nesting of states, see `eval_params`.
        params: What `eval_params` gave with this state.
        which: As in `eval_params`.

    Returns:
        A tree like params.

    Raises:
        ValueError: as in `eval_params`.

    Example:
        >>> from optax_wsd import schedule_free_sgd
        >>> params, tx = jnp.array(0.0), schedule_free_sgd(1.0)
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(params - 1, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> back = train_params(state, eval_params(state, params))
        >>> round(float(back - params), 5)
        0.0

    References:
        Defazio et al., 2024, arXiv:2405.15682, equation 6.
    """
    return _map_leaves(_to_train, opt_state, params, which)


def _map_leaves(convert, opt_state, params, which):
    found = _tree.find_states(opt_state, *AVERAGES, ScheduleFreeState, which=which)
    params = _tree.as_arrays(params)
    leaves = _tree.leaves_by_path(params)
    leaves = {name: p for name, p in leaves.items() if hasattr(p, "shape")}
    values: dict[Any, dict[str, Any]] = {name: {} for name in leaves}
    for names, state in found.items():
        owner = "/".join(names)
        need = "without an average in optax.lookahead, which moves the params after it"
        check("fast_state" not in names, "opt_state", owner, need)
        is_free = isinstance(state, ScheduleFreeState)
        count = state.schedule_free_count if is_free else state.average_count
        stack = jnp.shape(_tree.get_scalar(count))  # of vmapped states, else ()
        for p in leaves.values():
            got = jnp.shape(p)[: len(stack)]
            check(got == stack, "params", got, f"a stack of {stack}, as {owner} is one")
        fn = functools.partial(_convert, convert, owner)
        for _ in stack:
            fn = jax.vmap(fn)
        for name, value in fn(state, leaves).items():
            values[name][owner] = value

    def leaf(path, p):
        name = _tree.leaf_name(path)
        owners = values[name] if _tree.is_averaged(p) else {}
        need = f"the name of one average, as leaf {'/'.join(name)!r} has "
        check(len(owners) < 2, "which", which, need + " and ".join(owners))
        return next((value.astype(p.dtype) for value in owners.values()), p)

    return jax.tree.map_with_path(leaf, params)


def _convert(convert, owner, state, leaves):
    """New values of the leaves that a state has an average of, by their names."""
    is_free = isinstance(state, ScheduleFreeState)
    tree = state.schedule_free_gap if is_free else averages_of(state)
    average = _tree.leaves_by_path(tree)
    shown, restored = _as_shown(leaves, average)
    for name, a in average.items():
        got = f"shape {jnp.shape(shown[name])}" if name in shown else "no such leaf"
        need = f"the tree of {owner}: {'/'.join(name)!r} of {a.shape}"
        check(got == f"shape {a.shape}", "params", got, need)
    return restored(convert(state, average, shown))


def _as_shown(leaves, average) -> Any:
    """The leaves as the wrapper of an average showed them to it, and the way back."""
    if set(average) == {()} and () not in leaves:  # optax.flatten
        like = average[()].dtype
        flat, split = ravel_pytree([p.astype(like) for p in leaves.values()])
        return {(): flat}, lambda new: dict(zip(leaves, split(new[()]), strict=True))
    # optax.contrib.split_real_and_imaginary
    parts = {name: ((*name, "real"), (*name, "imaginary")) for name in leaves}
    parts = {name: pair for name, pair in parts.items() if pair[0] in average}
    shown = dict(leaves)
    for name, (real, imaginary) in parts.items():
        shown |= {real: leaves[name].real, imaginary: leaves[name].imag}

    def joined(new):
        for name, (real, imaginary) in parts.items():
            new[name] = new.pop(real) + 1j * new.pop(imaginary)
        return new

    return shown, joined


def _to_eval(state, average, params):
    if isinstance(state, ScheduleFreeState):
        y = params | _tree.leaves_by_path(state.schedule_free_y)
        return _moved(y, 1, state, average)
    is_begun = _tree.get_scalar(state.average_samples) > 0
    return {
        name: jnp.where(is_begun, a.astype(params[name].dtype), params[name])
        for name, a in average.items()
    }


def _to_train(state, average, params):
    if not isinstance(state, ScheduleFreeState):
        return {name: params[name] for name in average}
    y = _moved(params, -1, state, average)
    return y | _tree.leaves_by_path(state.schedule_free_y)


def _moved(params, sign, state, gaps):
    """The params with x - y = (1 - b1) (1 - c) gap added to them, times a sign."""
    b1, c = map(_tree.get_scalar, (state.schedule_free_b1, state.schedule_free_c))
    share = sign * (1 - b1) * (1 - c)
    return {
        name: params[name].astype(gap.dtype) + (share * gap).astype(gap.dtype)
        for name, gap in gaps.items()
    }
