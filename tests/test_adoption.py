"""adopt_state: everything that can happen to a checkpoint between two runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

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
    return None if tree is None else np.asarray(tree)


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
EVERYTHING = EVERYTHING._replace(update=jax.jit(EVERYTHING.update))


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


def test_a_clock_belongs_to_a_class():
    """reduce_on_plateau has a `count` and a `cooldown_count` of its own."""
    plateau = optax.contrib.reduce_on_plateau(cooldown=5)
    params, state = train(optax.adamw(0.1), start())
    new = optax.chain(optax.adamw(0.1), plateau, optax_wsd.scale_by_cooldown())
    adopted = optax_wsd.adopt_state(state, new.init(params))
    assert_equal(adopted[1], plateau.init(params))
    assert adopted[2].cooldown_count == 4

    old = optax.chain(plateau, optax.adamw(0.1))
    state = old.init(params)
    _, state = old.update(params, state, params, value=1.0)
    schedule = optax.scale_by_schedule(lambda count: 0.1)
    for restored in (state, bare(state)):
        adopted = optax_wsd.adopt_state(restored, schedule.init(params))
        assert adopted.count == 1  # that of Adam, not the plateau's 0

    state = optax.chain(plateau, optax.sgd(0.1)).init(params)
    with pytest.raises(ValueError, match="count must be given"):
        optax_wsd.adopt_state(state, schedule.init(params))


@pytest.mark.parametrize(
    "old",
    [
        optax.lion(0.1),
        optax.contrib.muon(0.1),
        optax_wsd.schedule_free_sgd(0.1),
        optax.MultiSteps(optax.sgd(0.1), 1).gradient_transformation(),
        optax.chain(optax.sgd(0.1), optax_wsd.params_swa()),
        optax.inject_hyperparams(optax.sgd)(0.1),
    ],
)
@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_every_optimizer_that_counts_tells_the_time(old, as_restored):
    params, state = train(old, start(), steps=2)
    new = optax.chain(optax.sgd(lambda count: 0.1), optax_wsd.scale_by_cooldown())
    adopted = optax_wsd.adopt_state(as_restored(state), new.init(params))
    assert (adopted[0][1].count, adopted[1].cooldown_count) == (2, 2)


def test_a_state_without_a_count_takes_one():
    new = optax.chain(optax.sgd(0.1), optax_wsd.params_ema(0.9, start_step=6))
    state = optax.sgd(0.1).init(start())
    with pytest.raises(
        ValueError, match="count must be given: ParamsEmaState.average_"
    ):
        optax_wsd.adopt_state(state, new.init(start()))
    adopted = optax_wsd.adopt_state(state, new.init(start()), count=500)
    assert adopted[1].average_count == 500
    with pytest.raises(ValueError, match="count must be a whole number"):
        optax_wsd.adopt_state(state, new.init(start()), count=-1)


def averages(*names, wrap=lambda tx: tx):
    numbers = {"fast": 0.1, "slow": 0.9, "third": 0.5}
    emas = [(name, optax_wsd.params_ema(numbers[name])) for name in names]
    return optax.named_chain(("opt", wrap(optax.sgd(0.1))), *emas)


@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
@pytest.mark.parametrize(
    "names", [("slow",), ("slow", "fast"), ("third", "slow", "fast")]
)
def test_averages_go_to_their_names(names, as_restored):
    params, state = train(averages("fast", "slow"), start())
    new = averages(*names).init(params)
    adopted = optax_wsd.adopt_state(as_restored(state), new)
    for name in names:
        if name in state:
            assert_equal(adopted[name], state[name])
        else:
            assert adopted[name].average_samples == 0


UNNAMED = optax.chain(optax.sgd(0.1), optax_wsd.params_ema(0.1))


@pytest.mark.parametrize(
    "old, new", [(averages("fast"), UNNAMED), (UNNAMED, averages("fast"))]
)
def test_a_name_may_be_given_or_dropped_where_there_is_one_of_a_class(old, new):
    params, state = train(old, start())
    adopted = optax_wsd.adopt_state(state, new.init(params))
    for name in ("params_ema", "average_samples"):
        assert_equal(optax.tree.get(adopted, name), optax.tree.get(state, name))


def test_a_schedule_alone_needs_no_name():
    schedule = optax.scale_by_schedule(lambda count: 0.1)
    params, state = train(optax.named_chain(("a", schedule), ("b", schedule)), start())
    assert optax_wsd.adopt_state(state, schedule.init(params)).count == 4


@pytest.mark.parametrize(
    "old, new",
    [
        (averages("fast"), averages("slow")),
        (averages("fast", "slow"), optax.chain(optax_wsd.params_ema(0.9))),
        (optax.chain(*[optax_wsd.params_ema(0.9)] * 2), averages("slow")),
    ],
)
def test_names_that_do_not_decide_are_refused(old, new):
    with pytest.raises(
        ValueError, match="opt_state must be named as the new ParamsEma"
    ):
        optax_wsd.adopt_state(old.init(start()), new.init(start()), count=0)


@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_groups_go_on_in_a_new_wrapping(as_restored):
    """Labels say which group is which, also around masks and in other wrappers."""
    groups = {"x": optax.adamw(0.1, mask={"a": True, "b": False}), "y": optax.adam(0.1)}
    old = optax.partition(groups, {"a": "x", "b": "y"})
    params, state = train(old, start())
    again = optax.partition({"y": groups["y"], "x": groups["x"]}, {"a": "x", "b": "y"})
    new = optax.named_chain(("both", again), ("cool", optax_wsd.scale_by_cooldown()))
    adopted = optax_wsd.adopt_state(
        as_restored({"opt_state": state, "params": params}), new.init(params)
    )
    for label in ("x", "y"):
        got = adopted["both"].inner_states[label]
        assert_equal(got, state.inner_states[label])


@pytest.mark.parametrize(
    "old, new, field",
    [
        (optax_wsd.params_ema(0.999), optax_wsd.params_ema(0.99995), "ema_remainder"),
        (optax_wsd.params_swa(), optax_wsd.params_swa(window=4), "swa_window"),
    ],
)
@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_an_argument_that_needs_more_state_gets_it_fresh(old, new, field, as_restored):
    params, state = train(old, start())
    fresh = new.init(params)
    adopted = optax_wsd.adopt_state(as_restored(state), fresh)
    assert_equal(getattr(adopted, field), getattr(fresh, field))
    assert_equal(adopted[:2], state[:2])


@pytest.mark.parametrize("as_restored", [bare, lambda tree: tree], ids=["bare", "same"])
def test_schedule_free_goes_on_with_another_b1_and_another_dtype(as_restored):
    """The b1 of the params at hand is the old one's until the next update."""
    params, state = train(optax_wsd.schedule_free_sgd(0.1), start())
    new = optax_wsd.schedule_free_sgd(0.1, b1=0.4)
    assert_equal(optax_wsd.adopt_state(as_restored(state), new.init(params)), state)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    fresh = new.init(params)
    adopted = optax_wsd.adopt_state(as_restored(state), fresh)
    assert_equal(adopted.schedule_free_gap, state.schedule_free_gap)
    assert_equal(adopted.schedule_free_y, fresh.schedule_free_y)


def test_shapes_alone_are_enough_where_the_old_state_knows_all():
    params, state = train(EVERYTHING, start())
    shapes = jax.eval_shape(EVERYTHING.init, params)
    assert_equal(optax_wsd.adopt_state(bare(state), shapes), state)
    more = optax.chain(EVERYTHING, optax_wsd.params_power_ema(1.0))
    with pytest.raises(ValueError, match="new_state must be arrays: 'ParamsPowerEmaSt"):
        optax_wsd.adopt_state(state, jax.eval_shape(more.init, params))


def test_a_train_state_gives_its_state_and_takes_none():
    old = TrainState.create(apply_fn=None, params=start(), tx=optax.adamw(0.1))
    old = old.apply_gradients(grads=start())
    new = optax.chain(optax.adamw(0.1), optax_wsd.scale_by_cooldown())
    adopted = optax_wsd.adopt_state(old, new.init(start()))
    assert adopted[1].cooldown_count == 1
    assert_equal(adopted[0], old.opt_state)
    with pytest.raises(ValueError, match=r"new_state must be tx.init.*'TrainState'"):
        optax_wsd.adopt_state(old, old.replace(opt_state=new.init(start())))


def test_a_new_state_of_dicts_is_refused_as_nothing_in_it_has_a_class():
    optimizer = nnx.Optimizer(
        nnx.Linear(1, 1, rngs=nnx.Rngs(0)), optax.adamw(0.1), wrt=nnx.Param
    )
    as_dicts = nnx.state(optimizer, nnx.optimizer.OptState)
    with pytest.raises(ValueError, match="of NamedTuples, got 'State'"):
        optax_wsd.adopt_state(optimizer.opt_state, as_dicts)


def test_an_injected_rate_is_state_and_goes_on():
    params, state = train(optax.inject_hyperparams(optax.sgd)(0.5), start())
    new = optax.inject_hyperparams(optax.sgd)(0.1).init(params)
    assert optax_wsd.adopt_state(state, new).hyperparams["learning_rate"] == 0.5
