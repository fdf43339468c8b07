"""Tree helpers: the lerp behind every average, and states found in any nesting.

A state is known by its NamedTuple class or, where a checkpoint was restored without a
target, as a dict with the same keys. Containers in between (chain, MultiSteps, masked,
partition, inject_hyperparams, `nnx.Optimizer.opt_state`) are walked through as trees.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def lerp(start, end, weight):
    """start + weight (end - start), and exactly `end` at weight 1."""
    return jnp.where(weight == 1, end, start + weight * (end - start))


def is_averaged(leaf) -> bool:
    """Whether a leaf takes part in averages: numbers do, integers and keys do not."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def average_dtype(dtype, state_dtype=None):
    """The dtype of a state over leaves of `dtype`: at least float32."""
    return state_dtype or jnp.promote_types(dtype, jnp.float32)


def is_state(node, kind: Any) -> bool:
    if isinstance(node, Mapping):
        return set(node) == set(kind._fields)
    return isinstance(node, kind)


def find_states(tree, kind: Any) -> list[Any]:
    """All states of a NamedTuple `kind` in a tree, in order, dicts made into `kind`."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: is_state(node, kind))
    return [as_state(node, kind) for node in nodes if is_state(node, kind)]


def as_state(node, kind: Any) -> Any:
    return kind(**node) if isinstance(node, Mapping) else node


def map_states(fn: Callable[[Any], Any], tree, kind: Any):
    """The tree with `fn` applied to every state of `kind`; dicts come back as dicts."""

    def visit(node):
        if not is_state(node, kind):
            return node
        state = fn(as_state(node, kind))
        return type(node)(state._asdict()) if isinstance(node, Mapping) else state

    return jax.tree.map(visit, tree, is_leaf=lambda node: is_state(node, kind))


def get_scalar(field) -> jax.Array:
    """The array in a state's scalar field, also where a framework has wrapped it."""
    (value,) = jax.tree.leaves(field)
    return value


def set_scalar(field, value):
    """The field with `value` in it, kept in its dtype, sharding and wrapping."""
    return jax.tree.map(
        lambda old: jnp.full_like(old, jnp.broadcast_to(value, jnp.shape(old))), field
    )
