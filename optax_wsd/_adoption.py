"""States that move between optimizers: old checkpoints, restored dicts, added parts."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import _tree
from ._averaging import AVERAGES
from ._checks import check, check_int, is_traced
from ._cooldown import ScaleByCooldownState
from ._schedule_free import ScheduleFreeState


def adopt_state(
    opt_state: optax.OptState,
    new_state: optax.OptState,
    *,
    count: jax.typing.ArrayLike | None = None,
) -> optax.OptState:
    """The new optimizer's state, with everything in it that the old state knows.

        in both states     from the old, also an injected rate and other hyperparams
        only in the new    fresh; schedules and cooldowns go on at the old step count
        only in the old    dropped

    Two states match if they have the same class and the same names: keys of
    `optax.named_chain`, labels of `optax.partition`. Without names, the n-th of a class
    matches the n-th. Use it when a part comes or goes, a constant rate becomes a
    schedule, an argument needs more state, or a state was restored without a target.

    Args:
        opt_state: The old state, of any nesting.
        new_state: `tx.init(params)` of the optimizer to go on with; if the old state
            knows all of it, that of `jax.eval_shape` will do.
        count: Updates so far, for the schedules and cooldowns that are only in the new;
            default: what the old state has counted. `optax.sgd` counts none.

    Returns:
        A state with the tree, dtypes and shardings of new_state.

    Raises:
        ValueError: a part in both lacks a leaf in the old state or has it in another
            shape, its names do not say which is which, or the count is unknown.

    Example:
        >>> from optax_wsd import scale_by_cooldown
        >>> params, old = jnp.zeros(3), optax.adamw(1e-3)
        >>> _, state = old.update(params, old.init(params), params)
        >>> new = optax.chain(old, scale_by_cooldown())
        >>> state = adopt_state(state, new.init(params))
        >>> [int(optax.tree.get(state, name)) for name in ("count", "cooldown_count")]
        [1, 1]

    References:
        Hägele et al., 2024, arXiv:2405.18392, section 3: cooldowns from any checkpoint.
    """
    if count is not None:
        check_int("count", count)
    fresh = list(_walk(new_state))
    is_state = bool(fresh) or not jax.tree.leaves(new_state)
    is_state = is_state and isinstance(new_state, tuple | Mapping)
    need = "tx.init(params), of NamedTuples"
    check(is_state, "new_state", type(new_state).__name__, need)
    known = (*_CLOCKS, *(part.kind for part in fresh))
    old = list(_walk(opt_state, {frozenset(kind._fields) for kind in known}))
    sources = iter(_match(old, fresh))
    clock: Any = _clock(old) if count is None else count

    def visit(node):
        source = next(sources)
        return type(node)(*(field(node, source, name) for name in node._fields))

    def field(node, source, name):
        where, new = f"{type(node).__name__}.{name}", getattr(node, name)
        old = None if source is None else source[name]
        if source is None and _RUN_CLOCKS.get(type(node)) == name:
            need = f"given: {where} goes on, and opt_state has counted no updates"
            check(clock is not None, "count", None, need)
            old = jax.tree.map(lambda leaf: jnp.broadcast_to(clock, leaf.shape), new)
        return fill(new, old, where)

    def fill(new, old, where):
        """A part of the new state, with the leaves of the old; fresh in its gaps."""
        values = _tree.leaves_by_path(old, is_leaf=_is_gap)

        def leaf(path, leaf):
            if _is_state(leaf):
                return visit(leaf)
            name = _tree.leaf_name(path)
            at = "/".join((where, *name))
            gaps = (values.get(name[:i], 0) for i in range(len(name) + 1))
            if any(map(_is_gap, gaps)):
                is_concrete = not isinstance(leaf, jax.ShapeDtypeStruct)
                check(is_concrete, "new_state", leaf, f"arrays: {at!r} is new")
                return _take(leaf, leaf, at)
            check(name in values, "opt_state", "no such leaf", f"a state with {at!r}")
            return _take(values[name], leaf, at)

        return jax.tree.map_with_path(leaf, new, is_leaf=_is_state)

    return fill(new_state, None, "opt_state")


# The clocks of a run by class, the most reliable first. Found without making an array,
# which jax.distributed would not allow before it is set up.
_RUN_CLOCKS: dict[Any, str] = {
    optax.ScaleByScheduleState: "count",
    optax.schedules.InjectStatefulHyperparamsState: "count",
    optax.schedules.InjectHyperparamsState: "count",
    type(jax.eval_shape(optax.WrappedSchedule(lambda c: c).init)): "count",
    type(jax.eval_shape(optax.add_decayed_weights(lambda c: c).init, ())): "count",
    optax.MultiStepsState: "gradient_step",
    ScaleByCooldownState: "cooldown_count",
    **dict.fromkeys(AVERAGES, "average_count"),
}
# These start at 0 in a new part, as they debias what they count; an old one is a clock.
_OWN_CLOCKS: dict[Any, str] = {ScheduleFreeState: "schedule_free_count"} | {
    kind: "count"
    for kind in (*vars(optax).values(), *vars(optax.contrib).values())
    if inspect.isclass(kind) and "count" in getattr(kind, "_fields", ())
    if kind is not optax.contrib.ReduceLROnPlateauState  # whose count restarts
}
_CLOCKS = _RUN_CLOCKS | _OWN_CLOCKS


class _Part(NamedTuple):
    """A state in a tree, with the keys of dicts on the way to it and its fields."""

    names: tuple[str, ...]
    kind: Any  # the class of a NamedTuple, or the field names of a dict that was one
    fields: dict[str, Any]


def _is_state(node) -> bool:
    return bool(getattr(node, "_fields", ()))


def _is_gap(node) -> bool:
    return not jax.tree.leaves(node)


def _walk(tree, kinds=(), names=()) -> Iterator[_Part]:
    """The states in a tree, outer ones before inner ones; dicts of the keys `kinds`."""

    def is_part(node):
        is_dict = isinstance(node, Mapping)
        return frozenset(node) in kinds if is_dict else _is_state(node)

    for path, node in jax.tree.leaves_with_path(tree, is_leaf=is_part):
        if is_part(node):
            keys = [str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey)]
            own = (*names, *(key for key in keys if not key.isdigit()))
            is_dict = isinstance(node, Mapping)
            fields = dict(node) if is_dict else node._asdict()
            yield _Part(own, frozenset(fields) if is_dict else type(node), fields)
            yield from _walk(list(fields.values()), kinds, own)


def _match(old: list[_Part], new: list[_Part]) -> list[dict[str, Any] | None]:
    """For each new part the fields of the old one that it goes on from, or None."""
    is_bare = any(isinstance(part.kind, frozenset) for part in old)
    matched: dict[int, dict[str, Any]] = {}

    def kind(part):
        return frozenset(part.fields) if is_bare else part.kind

    for each in dict.fromkeys(map(kind, new)):
        olds = [part for part in old if kind(part) == each]
        news = [i for i, part in enumerate(new) if kind(part) == each]
        # By all names, else by the innermost, as other wrappers may be around it.
        for names_of in (lambda p: p.names, lambda p: p.names[-1:]):
            for i in news:
                mine = names_of(new[i])
                alike = [n for n, part in enumerate(olds) if names_of(part) == mine]
                if i not in matched and len({olds[n].names for n in alike}) == 1:
                    matched[i] = olds.pop(alike[0]).fields
        left = [i for i in news if i not in matched and not _is_plain(new[i])]
        if olds and left:
            got, want = [p.names for p in olds], [new[i].names for i in left]
            is_clear = len(got) == len(want) and not (any(got) and any(want))
            need = f"named as the new {new[left[0]].kind.__name__}, {want}"
            check(is_clear, "opt_state", got, need)
            matched |= {i: part.fields for i, part in zip(left, olds, strict=True)}
    return [matched.get(i) for i in range(len(new))]


def _is_plain(part) -> bool:
    """Whether a part holds nothing of its own but a clock, so that any will match."""
    own = jax.tree.leaves(list(part.fields.values()), is_leaf=_is_state)
    return set(part.fields) == {"count"} or all(map(_is_state, own))


def _clock(old: list[_Part]):
    """The number of updates that the old state has counted, None if it has not."""
    for kind, name in _CLOCKS.items():
        for part in old:
            if part.kind in (kind, frozenset(kind._fields)):
                return _tree.get_scalar(part.fields[name])
    return None


def _take(value, new, where):
    """A value in the new one's dtype, and on its devices where they are fixed."""
    got, need = jnp.shape(value), jnp.shape(new)
    check(got == need, "opt_state", got, f"a state with shape {need} at {where!r}")
    if getattr(value, "dtype", None) != new.dtype:
        value = jnp.asarray(value, new.dtype)
    # A shape may have a sharding; an array has one, which it keeps if it is committed.
    place = None if is_traced(new) else getattr(new, "sharding", None)
    is_placed = getattr(new, "committed", True) if place else False
    return jax.device_put(value, place) if is_placed else jnp.asarray(value)
