"""The weights to evaluate, found in any optimizer state, and the way back."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ._averaging import AVERAGES, averages_of
from ._checks import check
from ._schedule_free import ScheduleFreeState
from ._tree import (
    as_state,
    get_scalar,
    is_state,
    leaf_name,
    leaves_by_path,
    lerp,
    path_names,
)


class _Candidate(NamedTuple):
    """One average in a state: how it is named, and its value for each leaf it has."""

    names: tuple[str, ...]  # path in the state, then the name of the factory
    shapes: dict[tuple[str, ...], tuple[int, ...]]  # by path of the leaf
    to_eval: Callable[[tuple[str, ...], Any], jax.Array]  # path, params leaf
    to_train: Callable[[tuple[str, ...], Any], jax.Array]


def eval_params(
    opt_state: optax.OptState, params: Any, *, which: str | None = None
) -> Any:
    """The weights to evaluate: an average or schedule-free x, found in any state.

        state has       an average     schedule-free   nothing
        value           the average    x               params

    in the structure and dtypes of params. Leaves that masks or partitions keep away
    from the average, and integers and keys, are those of params. Works under jit.

    Args:
        opt_state: Any nesting of states: chain, MultiSteps, apply_if_finite, masked,
            partition, inject_hyperparams, `nnx.Optimizer.opt_state`, Linen's
            `TrainState.opt_state`, or a state restored without a target.
        params: The params that the state belongs to, as trained. For the average of
            bfloat16 params before its own rounding, give them as float32.
        which: Name of the one average to take where there are several: a factory's
            name ("params_ema", "schedule_free"), or a key of `optax.named_chain`.

    Returns:
        A tree like params.

    Raises:
        ValueError: a leaf has two averages and `which` names neither, `which` is not in
            the state, or the average's leaves are not those of params.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from optax_wsd import params_ema
        >>> slow, fast = params_ema(0.9), params_ema(0.0)
        >>> tx = optax.named_chain(
        ...     ("opt", optax.sgd(1.0)), ("slow", slow), ("fast", fast))
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.array(-1.0), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(eval_params(state, params, which="fast"))
        2.0
        >>> round(float(eval_params(state, params, which="slow")), 4)
        1.5263

    References:
        Defazio et al., 2024, arXiv:2405.15682, section 2.
    """
    return _map_leaves(lambda c: c.to_eval, opt_state, params, which)


def train_params(
    opt_state: optax.OptState, params: Any, *, which: str | None = None
) -> Any:
    """The params to go on training with, from those that `eval_params` gave.

        y = b1 x + (1 - b1) z    for schedule-free; else the params as they are

    For a run of which only the evaluated weights and the optimizer state were saved.
    An average holds no way back to the params it averages: training then goes on from
    the average.

    Args:
        opt_state: Any nesting of states, see `eval_params`.
        params: What `eval_params` gave with this state.
        which: As in `eval_params`.

    Returns:
        A tree like params.

    Raises:
        ValueError: as in `eval_params`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from optax_wsd import schedule_free_sgd
        >>> tx = schedule_free_sgd(1.0)
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(params - 1, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> back = train_params(state, eval_params(state, params))
        >>> round(float(params), 5) == round(float(back), 5)
        True

    References:
        Defazio et al., 2024, arXiv:2405.15682, equation 6.
    """
    return _map_leaves(lambda c: c.to_train, opt_state, params, which)


def _map_leaves(direction, opt_state, params, which):
    candidates = _choose(list(_candidates(opt_state)), which)
    found = leaves_by_path(params)
    for candidate in candidates:
        _check_fit(candidate, found)

    def value(path, p):
        name = leaf_name(path)
        mine = [c for c in candidates if name in c.shapes]
        if not mine:
            return p
        both = " and ".join("/".join(c.names) for c in mine)
        need = f"the name of one average of leaf {'/'.join(name)!r}: it has {both}"
        check(len(mine) == 1, "which", which, need)
        return direction(mine[0])(name, p).astype(p.dtype)

    return jax.tree_util.tree_map_with_path(value, params)


def _candidates(opt_state) -> Iterator[_Candidate]:
    kinds = (*AVERAGES, ScheduleFreeState)

    def kind_of(node) -> Any:
        return next((kind for kind in kinds if is_state(node, kind)), None)

    nodes = jax.tree_util.tree_leaves_with_path(
        opt_state, is_leaf=lambda node: kind_of(node) is not None
    )
    for path, node in nodes:
        kind = kind_of(node)
        if kind is ScheduleFreeState:
            yield _schedule_free(path_names(path), as_state(node, kind))
        elif kind is not None:
            yield _average(path_names(path), as_state(node, kind))


def _average(path, state) -> _Candidate:
    averages = leaves_by_path(averages_of(state))
    samples = get_scalar(state.average_samples)

    def to_eval(name, p):
        return jnp.where(samples > 0, averages[name], p)

    return _Candidate(
        (*path, type(state)._fields[2]), _shapes(averages), to_eval, lambda _, p: p
    )


def _schedule_free(path, state) -> _Candidate:
    trees = state.schedule_free_z, state.schedule_free_gap
    zs, gaps = map(leaves_by_path, trees)
    b1 = get_scalar(state.schedule_free_b1)

    def to_eval(name, y):
        z = zs[name]
        if name in gaps:
            return z + gaps[name]
        # x = (y - (1 - b1) z) / b1, and exactly y where z is y.
        return lerp(y.astype(z.dtype), z, (1 - 1 / b1).astype(jnp.finfo(z.dtype).dtype))

    def to_train(name, x):
        z = zs[name]
        gap = gaps[name] if name in gaps else x.astype(z.dtype) - z
        return z + b1.astype(jnp.finfo(z.dtype).dtype) * gap

    return _Candidate((*path, "schedule_free"), _shapes(zs), to_eval, to_train)


def _shapes(leaves):
    return {name: jnp.shape(leaf) for name, leaf in leaves.items()}


def _choose(candidates, which):
    if which is None:
        return candidates
    chosen = [c for c in candidates if which in c.names]
    names = ", ".join("/".join(c.names) for c in candidates) or "no average"
    check(len(chosen) > 0, "which", which, f"a name in the state, which has {names}")
    return chosen


def _check_fit(candidate, params):
    for name, shape in candidate.shapes.items():
        fits = name in params and jnp.shape(params[name]) == shape
        got = f"shape {jnp.shape(params[name])}" if name in params else "no such leaf"
        need = f"the tree of {'/'.join(candidate.names)}: {'/'.join(name)!r} of {shape}"
        check(fits, "params", got, need)
