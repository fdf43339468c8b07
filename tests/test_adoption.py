"""adopt_state: everything that can happen to a checkpoint between two runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_wsd


def start():
    return {"a": jnp.asarray([0.1, -1.0]), "b": {"c": jnp.asarray(2.0)}}


def train(tx, params, state=None, steps=4):
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def bare(tree):
    """What a checkpoint without a target gives: dicts, lists and None."""
    if hasattr(tree, "_fields"):
        fields = {name: bare(getattr(tree, name)) for name in sorted(tree._fields)}
        return fields or None
    if isinstance(tree, tuple | list):
        return [bare(item) for item in tree]
    if isinstance(tree, dict):
        return {key: bare(tree[key]) for key in sorted(tree)}
    return np.asarray(tree)


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


EVERYTHING = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.MultiSteps(
        optax.partition(
            {
                "one": optax.chain(optax.adamw(lambda k: 0.1), optax_wsd.params_swa()),
                "two": optax.chain(
                    optax.inject_hyperparams(optax_wsd.schedule_free_adamw)(0.1),
                    optax_wsd.scale_by_cooldown(),
                ),
            },
            {"a": "one", "b": "two"},
        ),
        2,
    ).gradient_transformation(),
    optax_wsd.params_lawa(2, every=1),
    optax_wsd.params_ema(0.99999),
)


@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_the_same_optimizer_gets_its_state_back(as_restored):
    params, state = train(EVERYTHING, start())
    assert_equal(
        optax_wsd.adopt_state(as_restored(state), EVERYTHING.init(params)), state
    )


def test_an_added_average_starts_here_and_the_rest_goes_on():
    old = optax.adamw(0.1)
    params, state = train(old, start())
    new = optax.chain(optax.adamw(0.1), optax_wsd.params_ema(0.9, start_step=6))
    adopted = optax_wsd.adopt_state(state, new.init(params))
    assert_equal(adopted[0], state)
    assert int(adopted[1].average_count) == 4  # start_step counts the whole run
    assert int(adopted[1].average_samples) == 0
    assert_equal(optax_wsd.eval_params(adopted, params), params)
    later, adopted = train(new, params, adopted, steps=3)
    assert_equal(optax_wsd.eval_params(adopted, later), later)  # the first sample


def test_a_dropped_average_leaves_the_rest():
    tx = optax.chain(optax.adamw(0.1), optax_wsd.params_ema(0.9))
    params, state = train(tx, start())
    adopted = optax_wsd.adopt_state(state, optax.adamw(0.1).init(params))
    assert_equal(adopted, state[0])


@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_a_schedule_in_place_of_a_constant_goes_on_at_the_old_step(as_restored):
    schedule = optax_wsd.wsd_schedule(0.1, 8, warmup_steps=0, cooldown_steps=4)
    params, state = train(optax.adamw(0.1), start())
    new = optax.adamw(schedule)
    adopted = optax_wsd.adopt_state(as_restored(state), new.init(params))
    planned_params, planned = train(new, start())
    assert_equal(adopted, planned)
    assert_equal(params, planned_params)


def test_an_added_adam_debiases_from_its_own_start():
    params, state = train(optax.sgd(lambda k: 0.1), start())
    new = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda k: 0.1))
    adopted = optax_wsd.adopt_state(state, new.init(params))
    assert (int(adopted[0].count), int(adopted[1].count)) == (0, 4)


def test_params_may_be_named_tuples():
    class Layer(NamedTuple):
        weight: jax.Array
        bias: jax.Array

    params = {"layer": Layer(jnp.ones(2), jnp.zeros(2)), "head": jnp.ones(3)}
    tx = optax.adamw(0.1)
    params, state = train(tx, params)
    assert_equal(optax_wsd.adopt_state(bare(state), tx.init(params)), state)


def test_dtypes_and_placements_are_those_of_the_new_state():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("d"))
    _, state = train(optax.adam(0.1), {"w": jnp.ones(8)})
    params = {"w": jax.device_put(jnp.ones(8, jnp.bfloat16), sharding)}
    new = optax.adam(0.1).init(params)
    adopted = optax_wsd.adopt_state(bare(state), new)
    assert adopted[0].mu["w"].dtype == jnp.bfloat16
    assert adopted[0].mu["w"].sharding == new[0].mu["w"].sharding
    assert not adopted[0].count.committed
    np.testing.assert_allclose(adopted[0].nu["w"], state[0].nu["w"], rtol=1e-2)


@pytest.mark.parametrize(
    ("old", "match"),
    [
        ({"a": jnp.zeros(2)}, "no such leaf"),
        ({"a": jnp.zeros(3), "b": {"c": jnp.zeros(())}}, r"\(2,\) at 'Scale.*mu/a'"),
    ],
)
def test_states_of_other_params_are_refused(old, match):
    tx = optax.adam(0.1)
    with pytest.raises(ValueError, match=match):
        optax_wsd.adopt_state(tx.init(old), tx.init(start()))
