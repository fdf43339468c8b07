"""Tree helpers: the lerp behind every average, and states found in any nesting.

A state is known by the class of its NamedTuple, or by the same keys of a dict where a
checkpoint was restored without a target. What contains it is walked through as a tree.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._checks import check, is_traced


def lerp(start, end, weight):
    """start + weight (end - start), and exactly `end` at weight 1."""
    return jnp.where(weight == 1, end, start + weight * (end - start))


def known(number) -> Any:
    """A number as a Python number, exact in float64; a traced one as it is."""
    return number if is_traced(number) else np.asarray(number).item()


def complement_and_log(decay):
    """1 - decay and log(decay), exact if known: 1 - decay^t without cancellation."""
    decay = known(decay)
    if not is_traced(decay):
        return 1 - decay, math.log(decay) if decay > 0 else -math.inf
    new = 1 - jnp.clip(jnp.asarray(decay, float), 0, 1)
    return new, jnp.log1p(-new)


def as_arrays(tree):
    """The tree with its numbers as arrays; what is abstract or no number stays."""
    numbers = int | float | complex | np.ndarray | np.generic
    return jax.tree.map(lambda p: jnp.asarray(p) if isinstance(p, numbers) else p, tree)


def is_averaged(leaf) -> bool:
    """Whether a leaf takes part in averages: integers, keys and functions do not."""
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact)


def average_dtype(dtype, state_dtype=None):
    """The dtype of a state for leaves of `dtype`: at least float32, or as asked."""
    if jnp.issubdtype(dtype, jnp.complexfloating) or state_dtype is None:
        return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype
    return jnp.dtype(state_dtype)


def check_state_dtype(state_dtype) -> None:
    """Refuses what cannot hold an average: in bfloat16 it stops moving."""
    if state_dtype is not None:
        dtype = jnp.dtype(state_dtype)
        ok = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
        check(ok, "state_dtype", state_dtype, "a float of 32 bits or more")


def map_averaged(fn: Callable[..., Any], params, *rest):
    """`fn` over the leaves that take part in averages, None for the others."""
    return jax.tree.map(
        lambda p, *more: fn(p, *more) if is_averaged(p) else None, params, *rest
    )


def next_count(count) -> jax.Array:
    return jnp.asarray(optax.safe_increment(count))


def wide_copies(params, state_dtype=None):
    """The params in `average_dtype`, each in its own buffer; abstract if they are."""

    def copy(p):
        dtype = average_dtype(p.dtype, state_dtype)
        is_abstract = isinstance(p, jax.ShapeDtypeStruct)
        return p.update(dtype=dtype) if is_abstract else jnp.array(p, dtype, copy=True)

    return map_averaged(copy, params)


def zeros_as(leaf, dtype):
    """Zeros with the sharding of a leaf, which a constant would not have under jit."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    return jnp.fmin(jnp.abs(leaf), 0).astype(dtype)  # also of NaN


def rounded(leaf, dtype):
    """A leaf rounded to `dtype`, as no compiler may undo, in float32 or wider."""
    leaf, info = leaf.astype(dtype), jnp.finfo(dtype)
    if info.bits >= 32:
        return leaf
    # The exponents of 8 bits are no prefix of those of float32: they have no infinity.
    exponent_bits = info.nexp if info.bits == 16 else 8
    return jax.lax.reduce_precision(leaf.astype(jnp.float32), exponent_bits, info.nmant)


def leaves_by_path(tree, is_leaf=None) -> dict[tuple[str, ...], Any]:
    """Leaves by their names from the root."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf)
    return {leaf_name(path): leaf for path, leaf in leaves}


def leaf_name(path) -> tuple[str, ...]:
    """A key path as strings, without the `value` at its end that a wrapper adds."""
    names = path_names(path)
    return names[:-1] if names[-1:] == ("value",) else names


def path_names(path) -> tuple[str, ...]:
    """A key path as strings, the same for an object, a dict and a restored copy."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def find_states(tree, *kinds: Any, which: str | None = None) -> dict[Any, Any]:
    """The states of these NamedTuple classes in a tree, in order, by their names.

    A state's names are the keys from the root, then its factory: `params_ema` for
    `ParamsEmaState`. `which` selects the states that have it among their names.
    """
    found: dict[Any, Any] = {}
    _visit(found.setdefault, tree, kinds)
    chosen = {names: found[names] for names in found if which in (None, *names)}
    has = ", ".join(map("/".join, found)) or "none"
    ok = which is None or len(chosen) > 0
    check(ok, "which", which, f"a name in the state, which has {has}")
    return chosen


def map_states(fn: Callable[[Any], Any], tree, *kinds: Any, which: str | None = None):
    """The tree with `fn` of the states found; dicts come back as dicts."""
    chosen = find_states(tree, *kinds, which=which)
    return _visit(lambda names, s: fn(s) if names in chosen else s, tree, kinds)


def _visit(fn: Callable[[Any, Any], Any], tree, kinds):
    """The tree with fn(names, state) in the place of each state."""

    def visit(path, node):
        kind = _kind(node, kinds)
        if kind is None:
            return node
        names = (*path_names(path), factory_name(kind))
        if isinstance(node, Mapping):
            return type(node)(fn(names, kind(**node))._asdict())  # pyright: ignore
        return fn(names, node)

    return jax.tree.map_with_path(visit, tree, is_leaf=lambda n: bool(_kind(n, kinds)))


def _kind(node, kinds) -> Any:
    """The class of a state among `kinds`; of a dict, by its keys."""
    keys = set(node) if isinstance(node, Mapping) else ()
    return next((k for k in kinds if isinstance(node, k) or keys == {*k._fields}), None)


def factory_name(kind) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", kind.__name__.removesuffix("State")).lower()


def get_scalar(field) -> jax.Array:
    """The array in a state's scalar field, also where a framework has wrapped it."""
    (value,) = jax.tree.leaves(field)
    return value


def set_scalar(field, value):
    """The field with `value` in it, kept in its dtype, sharding and wrapping."""
    value = jnp.broadcast_to(value, jnp.shape(get_scalar(field)))
    # A copy, as full_like may hand back the buffer of `value` itself.
    return jax.tree.map(lambda old: jnp.copy(jnp.full_like(old, value)), field)
