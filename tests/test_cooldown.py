"""Cooldown on demand equals the cooldown planned beforehand, in any nesting."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

import optax_wsd
from optax_wsd import shapes

START, STEPS, TOTAL = 7, 8, 20
RATE = 0.1


def gradient(params, step):
    """A pure function of params and step, so that two runs see the same noise."""
    return jax.tree.map(lambda p: p + jnp.sin(step + jnp.arange(p.size)), params)


def start_params():
    return {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5])}


def train(tx, steps, params=None, state=None, first=0):
    params = start_params() if params is None else params
    state = tx.init(params) if state is None else state
    traces = 0

    @jax.jit
    def step_fn(params, state, step):
        nonlocal traces
        traces += 1
        updates, state = tx.update(gradient(params, step), state, params)
        return optax.apply_updates(params, updates), state

    for step in range(first, first + steps):
        if step == START:
            state = optax_wsd.start_cooldown(state, STEPS)
        params, state = step_fn(params, state, jnp.float32(step))
    assert traces == 1
    return params, state


@functools.cache
def planned(shape=shapes.one_minus_sqrt, optimizer=optax.adamw):
    schedule = optax_wsd.cooldown_schedule(RATE, START, STEPS, shape=shape)
    params = start_params()
    tx = optimizer(schedule)
    state = tx.init(params)
    for step in range(TOTAL):
        updates, state = tx.update(gradient(params, jnp.float32(step)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def cooled(inner=None, shape=shapes.one_minus_sqrt):
    inner = optax.adamw(RATE) if inner is None else inner
    return optax.chain(inner, optax_wsd.scale_by_cooldown(shape))


WEIGHTS = {"w": True, "b": False}
NESTINGS = {
    "chain": lambda: cooled(),
    "named_chain": lambda: optax.named_chain(
        ("adamw", optax.adamw(RATE)), ("cooldown", optax_wsd.scale_by_cooldown())
    ),
    "MultiSteps": lambda: optax.MultiSteps(cooled(), 1).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(cooled(), 3),
    "masked": lambda: optax.chain(
        optax.adamw(RATE),
        optax.masked(optax_wsd.scale_by_cooldown(), WEIGHTS),
        optax.masked(optax_wsd.scale_by_cooldown(), {"w": False, "b": True}),
    ),
    "partition": lambda: optax.partition(
        {True: cooled(), False: cooled()}, {"w": True, "b": False}
    ),
    "inject_hyperparams": lambda: optax.chain(
        optax.inject_hyperparams(optax.adamw)(RATE), optax_wsd.scale_by_cooldown()
    ),
    "inject_hyperparams outside": lambda: optax.inject_hyperparams(
        lambda learning_rate: cooled(optax.adamw(learning_rate))
    )(learning_rate=RATE),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_started_equals_planned_without_a_recompile(nesting):
    params, _ = train(NESTINGS[nesting](), TOTAL)
    injected = nesting == "inject_hyperparams"  # its b1 and b2 are rounded to float32
    want = planned(
        optimizer=optax.inject_hyperparams(optax.adamw) if injected else optax.adamw
    )
    chex.assert_trees_all_close(params, want, rtol=1e-6)


@jax.jit
def multipliers(state):
    """What a cooldown does to 16 updates."""
    tx = optax_wsd.scale_by_cooldown()

    def step(state, _):
        update, state = tx.update(jnp.ones(()), state)
        return state, update

    return jax.lax.scan(step, state, None, 16)[1]


@settings(deadline=None, max_examples=40)
@given(start=st.integers(0, 2**30), steps=st.integers(1, 20), wait=st.integers(0, 10))
def test_a_cooldown_from_any_step_is_the_planned_one(start, steps, wait):
    state = optax_wsd.scale_by_cooldown().init(jnp.ones(()))
    state = optax.tree.set(state, cooldown_count=jnp.int32(start))
    at = start + wait if wait else None
    state = optax_wsd.start_cooldown(state, steps, start_step=at)
    planned = optax_wsd.cooldown_schedule(1.0, start + wait, steps)
    want = planned(start + jnp.arange(16))
    np.testing.assert_allclose(multipliers(state), want, rtol=4 * 2.0**-23)


@pytest.mark.parametrize(
    "shape", [shapes.linear, shapes.lowered_linear(0.7), shapes.cosine]
)
def test_every_shape_starts_as_planned(shape):
    """Also the one that drops at its first step."""
    params, _ = train(cooled(shape=shape), TOTAL)
    np.testing.assert_allclose(params["w"], planned(shape)["w"], rtol=1e-6)


def test_multisteps_counts_real_updates():
    """Eight accumulated micro-steps are one step of the cooldown."""
    tx = optax.MultiSteps(optax.chain(optax.sgd(1.0), cooled(optax.identity())), 8)
    params = jnp.zeros(())
    state, update = optax_wsd.start_cooldown(tx.init(params), 2), jax.jit(tx.update)
    for _ in range(3 * 8):
        updates, state = update(jnp.ones(()), state, params)
        params = optax.apply_updates(params, updates)
    first_two = 1 + float(shapes.one_minus_sqrt(0.5))
    assert float(params) == pytest.approx(-first_two, rel=1e-6)


def test_a_skipped_step_is_no_step_of_the_cooldown():
    tx = optax.apply_if_finite(cooled(optax.sgd(1.0)), 5)
    state = optax_wsd.start_cooldown(tx.init(jnp.zeros(())), 10)
    _, after = tx.update(jnp.array(jnp.nan), state, jnp.zeros(()))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


@pytest.mark.parametrize("graph", [True, False])
def test_nnx_optimizer_cools_down_as_planned(graph):
    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(start_params()["w"])
            self.b = nnx.Param(start_params()["b"])

    model = Model()
    optimizer = nnx.Optimizer(model, cooled(), wrt=nnx.Param)

    @nnx.jit(graph=graph)
    def step_fn(model, optimizer, step):
        grads = jax.tree.map(
            lambda p: p + jnp.sin(step + jnp.arange(p.size)),
            nnx.state(model, nnx.Param),
        )
        optimizer.update(model, grads)

    for step in range(TOTAL):
        if step == START:
            optimizer.opt_state = optax_wsd.start_cooldown(optimizer.opt_state, STEPS)
        step_fn(model, optimizer, jnp.float32(step))
    np.testing.assert_allclose(model.w[...], planned()["w"], rtol=1e-6)
    assert float(optax_wsd.cooldown_scale(optimizer.opt_state)) == 0


def test_started_on_a_state_that_was_restored_without_a_target(tmp_path):
    """Orbax gives dicts and lists; the state is found, changed and put back."""
    tx = cooled()
    params, state = train(tx, START)
    ocp.save(tmp_path / "step", {"params": params, "opt_state": state})
    with pytest.warns(UserWarning, match="Sharding info"):
        restored = ocp.load(tmp_path / "step")
    changed = optax_wsd.start_cooldown(restored["opt_state"], STEPS)
    assert jax.tree.structure(changed) == jax.tree.structure(restored["opt_state"])
    assert float(optax_wsd.cooldown_scale(changed)) == 1
    back = optax_wsd.adopt_state(changed, tx.init(params))
    params, _ = train(tx, TOTAL - START - 1, restored["params"], back, first=START + 1)


def test_stop_goes_back_to_the_stable_phase():
    tx = cooled(optax.sgd(1.0), shapes.linear)
    state = optax_wsd.start_cooldown(tx.init(jnp.zeros(())), 4)
    scales = []
    for step in range(8):
        if step == 6:
            state = optax_wsd.stop_cooldown(state)
        scales.append(float(optax_wsd.cooldown_scale(state)))
        updates, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
        assert float(updates) == -scales[-1]
    assert scales == [1, 0.75, 0.5, 0.25, 0, 0, 1, 1]


def test_a_cooldown_can_be_planned_for_later_and_planned_again():
    tx = optax_wsd.scale_by_cooldown(shapes.linear, end_scale=0.5)
    state = optax_wsd.start_cooldown(tx.init(None), 2, start_step=100)
    state = optax_wsd.start_cooldown(state, 4, start_step=2)
    scales = []
    for _ in range(8):
        scales.append(float(optax_wsd.cooldown_scale(state)))
        _, state = tx.update(None, state)
    assert scales == [1, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5]


def test_counts_saturate_and_stay_exact_at_the_largest_step():
    tx = optax_wsd.scale_by_cooldown(shapes.linear)
    largest = 2**31 - 1
    state = tx.init(None)._replace(cooldown_count=jnp.int32(largest - 2))
    state = optax_wsd.start_cooldown(state, 4)
    scales = []
    for _ in range(4):
        scales.append(float(optax_wsd.cooldown_scale(state)))
        _, state = tx.update(None, state)
    assert scales == [1, 0.75, 0.5, 0.5] and state.cooldown_count == largest


def test_start_and_stop_work_inside_jit_and_vmap():
    """One program tries several cooldown lengths from one state."""
    tx = optax_wsd.scale_by_cooldown(shapes.linear)

    @jax.jit
    @jax.vmap
    def second_scale(steps):
        state = optax_wsd.start_cooldown(tx.init(None), steps)
        _, state = tx.update(None, state)
        return optax_wsd.cooldown_scale(state)

    np.testing.assert_allclose(second_scale(jnp.array([1, 2, 4])), [0, 0.5, 0.75])


def test_the_state_keeps_its_sharding_and_dtypes():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(optax_wsd.scale_by_cooldown().init(None), everywhere)
    for change in (
        lambda s: optax_wsd.start_cooldown(s, 3),
        optax_wsd.stop_cooldown,
    ):
        for old, new in zip(state, change(state), strict=True):
            assert new.sharding == old.sharding and new.dtype == old.dtype
            assert new.weak_type == old.weak_type and new.committed == old.committed


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_updates_keep_their_dtype(dtype):
    tx = optax_wsd.scale_by_cooldown(shapes.linear)
    state = optax_wsd.start_cooldown(tx.init(None), 3)
    _, state = tx.update(None, state)
    updates, _ = tx.update({"w": jnp.full(3, 3, dtype), "none": None}, state)
    assert updates["w"].dtype == dtype and updates["none"] is None
    np.testing.assert_allclose(updates["w"].astype(float), 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: optax_wsd.start_cooldown(s, 0), "cooldown_steps must be .* got 0"),
        (lambda s: optax_wsd.start_cooldown(s, 2.5), "cooldown_steps must be"),
        (lambda s: optax_wsd.start_cooldown(s, 5, start_step=-1), "start_step must"),
        (
            lambda s: optax_wsd.start_cooldown(
                s._replace(cooldown_count=jnp.int32(9)), 5, start_step=8
            ),
            "start_step must be a whole number from 9",
        ),
        (
            lambda s: optax_wsd.start_cooldown((), 5),
            "opt_state must be a state with scale_by",
        ),
        (lambda s: optax_wsd.stop_cooldown({}), "opt_state must be"),
        (
            lambda s: optax_wsd.cooldown_scale(optax.adam(1.0).init(0.0)),
            "opt_state must be",
        ),
        (lambda s: optax_wsd.scale_by_cooldown("linear"), "shape must be"),
        (lambda s: optax_wsd.scale_by_cooldown(end_scale=1.5), "end_scale must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax_wsd.scale_by_cooldown().init(None))


def applied(tx, state, steps):
    """What a transform does to updates of 1, each as `cooldown_scale` told before."""
    scales = []
    for _ in range(steps):
        told = optax_wsd.cooldown_scale(state)
        update, state = tx.update(jnp.ones(()), state)
        assert (
            float(told) == float(update) or not scales
        )  # of a moved state from then on
        scales.append(round(float(update), 6))
    return scales, state


DROPS = optax_wsd.scale_by_cooldown(shapes.lowered_linear(0.7), end_scale=0.1)
LINEAR = optax_wsd.scale_by_cooldown(shapes.linear)


def test_a_state_moves_to_a_transform_with_another_shape_and_end():
    """Nothing that is applied comes from the shape that the state was trained with."""
    tx = optax_wsd.scale_by_cooldown(shapes.lowered_linear(0.7))
    _, trunk = optax_wsd.scale_by_cooldown().update(None, LINEAR.init(None))
    state = optax_wsd.start_cooldown(trunk, 4)
    assert applied(tx, state, 5)[0] == [0.7, 0.525, 0.35, 0.175, 0]
    _, state = LINEAR.update(None, state)  # in the middle of a cooldown
    assert applied(DROPS, state, 2)[0] == [round(0.1 + 0.9 * 0.525, 6), 0.415]
    _, state = tx.update(None, LINEAR.init(None))  # tells of its own shape from here on
    told = optax_wsd.cooldown_scale(optax_wsd.start_cooldown(state, 4))
    assert float(told) == pytest.approx(0.7)


@pytest.mark.parametrize("end", [None, 0.4, 0.0])
def test_the_first_multiplier_is_told_before_its_update(end):
    state = optax_wsd.start_cooldown(DROPS.init(None), 2, end_scale=end)
    told = float(optax_wsd.cooldown_scale(state))
    scales, _ = applied(DROPS, state, 3)
    last = 0.1 if end is None else end
    want = [last + (1 - last) * 0.7, last + (1 - last) * 0.35, last]
    np.testing.assert_allclose(scales, want, rtol=1e-6)
    assert told == pytest.approx(want[0], rel=1e-6)
    later = optax_wsd.start_cooldown(DROPS.init(None), 2, start_step=1, end_scale=end)
    assert optax_wsd.cooldown_scale(later) == 1


def test_a_call_at_every_step_is_one_call():
    """Also in one compiled step, and after the end; the end may be named again."""
    for end in (None, 0.5):
        state, scales = LINEAR.init(None), []
        for step in range(9):
            if step >= 2:
                state = optax_wsd.start_cooldown(state, 4, end_scale=end)
            scales += applied(LINEAR, state, 1)[0]
            _, state = LINEAR.update(None, state)
        fall = 1 - np.clip((np.arange(9) - 2) / 4, 0, 1) * (1 if end is None else end)
        np.testing.assert_allclose(scales, fall)


@pytest.mark.parametrize(
    "again, want",
    [
        (dict(cooldown_steps=8), [0.6, 0.525, 0.45]),
        (dict(cooldown_steps=2), [0.6, 0.3, 0]),
        (dict(cooldown_steps=5, end_scale=0.1), [0.6, 0.5, 0.4]),
        (dict(cooldown_steps=5), [0.6, 0.4, 0.2]),
        (dict(cooldown_steps=5, start_step=3), [1, 1 - 1 / 5, 1 - 2 / 5]),
    ],
)
def test_another_cooldown_goes_on_from_the_multiplier_reached(again, want):
    """With another length or end; from the top again only where start_step says so."""
    tx = optax_wsd.scale_by_cooldown(shapes.linear)
    _, state = tx.update(None, tx.init(None))
    _, state = applied(tx, optax_wsd.start_cooldown(state, 5), 2)
    scales, state = applied(tx, optax_wsd.start_cooldown(state, **again), 3)
    np.testing.assert_allclose(scales, want, atol=1e-6)
    assert applied(tx, optax_wsd.stop_cooldown(state), 2)[0] == [1, 1]


def test_a_start_that_is_taken_back_before_its_update_leaves_nothing():
    state = optax_wsd.start_cooldown(DROPS.init(None), 10, end_scale=0.5)
    again = optax_wsd.start_cooldown(state, 2)
    chex.assert_trees_all_equal(again, optax_wsd.start_cooldown(DROPS.init(None), 2))
    stopped = optax_wsd.stop_cooldown(applied(DROPS, again, 1)[1])
    assert applied(DROPS, optax_wsd.start_cooldown(stopped, 2), 1)[0] == [0.73]


NAMED = optax.named_chain(
    ("slow", optax.chain(optax_wsd.scale_by_cooldown(shapes.linear))),
    ("other", optax.partition({"x": optax_wsd.scale_by_cooldown()}, "x")),
)


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(
    "which, started", [("slow", "slow"), ("x", "other"), ("scale_by_cooldown", None)]
)
def test_which_names_one_of_several(which, started, restored):
    state = NAMED.init(jnp.zeros(()))
    if restored:
        state = {"slow": [state["slow"][0]._asdict()], "other": state["other"]}
    state = optax_wsd.start_cooldown(state, 2, end_scale=0.5, which=which)
    after = optax_wsd.start_cooldown(state, 7, which="other")  # of the other group
    for name in ("slow", "other"):
        steps = optax.tree.get(after[name], "cooldown_steps")
        if restored and name == "slow":
            steps = after["slow"][0]["cooldown_steps"]
        assert steps == (7 if name == "other" else 2 if started != "other" else 1)
    assert optax_wsd.cooldown_scale(after, which=which) == 1
    stopped = optax_wsd.stop_cooldown(state, which=which)
    chex.assert_trees_all_equal(
        optax_wsd.start_cooldown(stopped, 2, end_scale=0.5, which=which), state
    )
    with pytest.raises(
        ValueError, match="which must be a name .* slow/0/scale_by_cool"
    ):
        optax_wsd.cooldown_scale(state, which="fast")


def test_a_stack_of_states_is_started_and_told_as_one():
    state = jax.vmap(DROPS.init)(jnp.zeros(3))
    state = optax_wsd.start_cooldown(state, jnp.array([1, 2, 4]))
    np.testing.assert_allclose(optax_wsd.cooldown_scale(state), [0.73] * 3, rtol=1e-6)
    _, state = jax.vmap(DROPS.update)(jnp.zeros(3), state)
    want = 0.1 + 0.9 * 0.7 * np.array([0, 0.5, 0.75])
    np.testing.assert_allclose(optax_wsd.cooldown_scale(state), want, rtol=1e-6)


@pytest.mark.parametrize(
    "factory", [shapes.lowered_linear, shapes.power, shapes.exponential]
)
def test_a_shape_that_was_not_called_is_refused(factory):
    for build in (
        optax_wsd.scale_by_cooldown,
        lambda shape: optax_wsd.cooldown_schedule(1.0, 2, 3, shape=shape),
        lambda shape: optax_wsd.merge_weights(4, shape),
    ):
        with pytest.raises(ValueError, match="shape must be a function .*not power"):
            build(shape=factory)


def test_injected_hyperparams_work_or_say_what_to_write():
    with pytest.raises(ValueError, match="shape must .* name it in static_args"):
        optax.inject_hyperparams(optax_wsd.scale_by_cooldown)().init(jnp.zeros(()))
    tx = optax.inject_hyperparams(optax_wsd.scale_by_cooldown, static_args="shape")(
        shapes.linear, end_scale=0.5
    )
    state = optax_wsd.start_cooldown(tx.init(jnp.zeros(())), 1)
    update, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
    assert (float(update), float(optax_wsd.cooldown_scale(state))) == (1, 0.5)
