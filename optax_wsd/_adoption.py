"""States that move between optimizers: old checkpoints, restored dicts, added parts."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ._checks import check, is_traced
from ._tree import leaf_name, leaves_by_path

# Clocks of the run. Others, such as Adam's own count, belong to what they debias.
_CLOCKS = ("count", "gradient_step", "cooldown_count", "average_count")


def adopt_state(opt_state: optax.OptState, new_state: optax.OptState) -> optax.OptState:
    """The new optimizer's state, with everything in it that the old state knows.

        in both states     from the old: the n-th of a kind goes to the n-th
        only in the new    fresh: an average starts here; schedules and cooldowns go on
                           at the old step count
        only in the old    dropped

    One call for all that can happen to a checkpoint: an average or a cooldown added or
    dropped, a constant learning rate that became a schedule, a state that was restored
    without a target and is made of dicts and lists.

    Args:
        opt_state: The old state, of any nesting.
        new_state: `tx.init(params)` of the optimizer to go on with.

    Returns:
        A state with the tree, dtypes and shardings of new_state.

    Raises:
        ValueError: a part that both have lacks a leaf in the old state, or has it in
            another shape.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from optax_wsd import scale_by_cooldown
        >>> params = jnp.zeros(3)
        >>> old = optax.adamw(1e-3)
        >>> _, state = old.update(params, old.init(params), params)
        >>> new = optax.chain(optax.adamw(1e-3), scale_by_cooldown())
        >>> state = adopt_state(state, new.init(params))
        >>> [int(optax.tree.get(state, name)) for name in ("count", "cooldown_count")]
        [1, 1]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3: cooldowns from any checkpoint.
    """
    kinds = {frozenset(s._fields): s._fields for s in _named_tuples(new_state)}
    old: dict[tuple[str, ...], list[Any]] = {}
    for fields, state in _walk(opt_state, kinds):
        old.setdefault(fields, []).append(state)
    clock = _clock(old)

    def visit(node):
        source = old[node._fields].pop(0) if old.get(node._fields) else None
        return type(node)(*(field(node, source, name) for name in node._fields))

    def field(node, source, name):
        new = getattr(node, name)
        if source is not None:
            return fill(new, source[name], f"{type(node).__name__}.{name}")
        goes_on = name in _CLOCKS and (name != "count" or node._fields == ("count",))
        if goes_on and clock is not None:
            return fill(new, clock, name)
        return fill(new, new, name)

    def fill(new, values, where):
        values = leaves_by_path(values)

        def leaf(path, leaf):
            if _is_named_tuple(leaf):
                return visit(leaf)
            name = leaf_name(path)
            return _take(values.get(name), leaf, "/".join((where, *name)))

        return jax.tree_util.tree_map_with_path(leaf, new, is_leaf=_is_named_tuple)

    return fill(new_state, new_state, "opt_state")


def _is_named_tuple(node) -> bool:
    return bool(getattr(node, "_fields", ()))


def _named_tuples(tree) -> Iterator[Any]:
    """Every NamedTuple with fields in a tree, outer ones before inner ones."""
    for node in jax.tree.leaves(tree, is_leaf=_is_named_tuple):
        if _is_named_tuple(node):
            yield node
            for name in node._fields:
                yield from _named_tuples(getattr(node, name))


def _walk(tree, kinds) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The states in a tree as (fields, values by field); dicts count as `kinds` do."""

    def fields_of(node) -> tuple[str, ...]:
        if isinstance(node, Mapping):
            return kinds.get(frozenset(node), ())
        return getattr(node, "_fields", ())

    for node in jax.tree.leaves(tree, is_leaf=lambda node: bool(fields_of(node))):
        fields = fields_of(node)
        if fields:
            get = (
                node.__getitem__ if isinstance(node, Mapping) else node.__getattribute__
            )
            values = {name: get(name) for name in fields}
            yield fields, values
            for value in values.values():
                yield from _walk(value, kinds)


def _clock(old):
    """The number of updates that the old state has counted, None if it has not."""
    for name in _CLOCKS:
        for states in old.values():
            for state in states:
                if name in state:
                    return state[name]
    return None


def _take(old, new, where):
    """The old value in the new one's dtype, and on its devices where they are fixed."""
    check(old is not None, "opt_state", "no such leaf", f"a state with {where!r}")
    got, need = jnp.shape(old), jnp.shape(new)
    check(got == need, "opt_state", got, f"a state with shape {need} at {where!r}")
    same = getattr(old, "dtype", None) == new.dtype
    value = old if same else jnp.asarray(old, new.dtype)
    is_placed = isinstance(new, jax.Array) and not is_traced(new) and new.committed
    return jax.device_put(value, new.sharding) if is_placed else jnp.asarray(value)
