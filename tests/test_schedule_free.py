"""Schedule-free against the PyTorch package and against float64 references."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_wsd
from tests import reference
from tests.fixtures import make_schedulefree as recorded

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "schedulefree.npz")
STEPS = 100


def z_of(state, y):
    """z of float32 params, from the y at hand."""
    share = state.schedule_free_b1 * (1 - state.schedule_free_c)
    return jax.tree.map(lambda y, gap: y - share * gap, y, state.schedule_free_gap)


def trajectory(tx, start, inputs, grad):
    """x, y and z after every update; grad(inputs[k], y) is the gradient of update k."""

    def step(carry, now):
        y, state = carry
        updates, state = tx.update(grad(now, y), state, y)
        y = optax.apply_updates(y, updates)
        return (y, state), (optax_wsd.eval_params(state, y), y, z_of(state, y))

    def run(start, inputs):
        return jax.lax.scan(step, (start, tx.init(start)), inputs)[1]

    return np.stack(jax.jit(run)(start, inputs), 1)


def optimizer(name, warmup, weight_decay, r):
    arguments = dict(b1=recorded.B1, weight_decay=weight_decay, r=r)
    if name != "radam":
        arguments["warmup_steps"] = warmup
    if name != "sgd":
        arguments["b2"] = recorded.B2
    return getattr(optax_wsd, f"schedule_free_{name}")(recorded.RATE, **arguments)


@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("case", recorded.CASES, ids=lambda c: recorded.case_name(*c))
def test_parity_with_the_pytorch_package(case, x64):
    """x, y and z over 1,000 steps: 1e-12 in float64, 2e-5 in float32."""
    name, warmup, weight_decay, r = case
    problem = {k: FIXTURE[k].astype(np.float64) for k in recorded.problem()}

    def gradient(k, y):
        pull = problem["curvature"] * (y - problem["optimum"])
        return pull + problem["noise"][k]

    by_reference = reference.schedule_free(
        gradient,
        problem["start"],
        recorded.STEPS,
        kind=name,
        learning_rate=recorded.RATE,
        b1=recorded.B1,
        b2=recorded.B2,
        weight_decay=weight_decay,
        warmup_steps=warmup,
        r=r,
    )
    with jax.enable_x64(x64):
        data = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), problem)
        got = trajectory(
            optimizer(*case),
            data["start"],
            data["noise"],
            lambda noise, y: data["curvature"] * (y - data["optimum"]) + noise,
        )
    tolerance = dict(rtol=0, atol=1e-12 if x64 else 2e-5)
    want = FIXTURE[recorded.case_name(*case)]
    np.testing.assert_allclose(got[FIXTURE["stored"] - 1], want, **tolerance)
    np.testing.assert_allclose(got, by_reference, **tolerance)


def eval_shape(init):
    return lambda params: jax.eval_shape(init, params)


def noise(steps, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, dim))


def falling(k):
    return 0.1 * (1 - k * (1 / STEPS))


def rising_b1(k):
    return 0.8 + 0.15 * k / STEPS


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("sgd", dict(learning_rate=0.1, b1=0.0)),
        ("sgd", dict(learning_rate=0.1, b1=0.3)),
        ("sgd", dict(learning_rate=0.1, b1=rising_b1)),
        ("sgd", dict(learning_rate=0.1, b1=rising_b1, decoupling=20.0)),
        ("sgd", dict(learning_rate=0.1, b1=0.9, decoupling=50.0)),
        ("sgd", dict(learning_rate=falling, b1=0.9)),
        ("sgd", dict(learning_rate=falling, b1=0.9, warmup_steps=20, r=2.0)),
        ("adamw", dict(learning_rate=0.1, b1=0.9, weight_lr_power=0.0)),
        ("adamw", dict(learning_rate=0.1, b1=0.9, weight_lr_power=1.0, warmup_steps=9)),
        ("adamw", dict(learning_rate=0.1, b1=0.5, b2=0.5, eps=0.1)),
        ("radam", dict(learning_rate=0.1, b1=0.98, weight_lr_power=0.0)),
        ("sgd", dict(learning_rate=0.1, b1=rising_b1, start_step=30, r=1.0)),
        ("adamw", dict(learning_rate=0.1, start_step=30, decoupling=2.0, b1=0.9)),
    ],
)
def test_every_option_is_its_definition(kind, arguments):
    """x, y and z of the explicit float64 recurrence, at every step."""
    with jax.enable_x64(True):
        inputs = noise(STEPS)
        want = reference.schedule_free(
            lambda k, y: y + inputs[k], np.ones(8), STEPS, kind=kind, **arguments
        )
        tx = getattr(optax_wsd, f"schedule_free_{kind}")(**arguments)
        got = trajectory(tx, jnp.ones(8), jnp.asarray(inputs), lambda n, y: y + n)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "direction",
    [
        optax.scale_by_adam(),
        optax.scale_by_lion(),
        optax.contrib.scale_by_muon(
            weight_dimension_numbers={"w": optax.contrib.MuonDimensionNumbers()}
        ),
        optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9)),
    ],
    ids=["adam", "lion", "muon", "clipped momentum"],
)
def test_any_direction_moves_z_and_x_is_the_mean_of_z(direction):
    """With a constant rate the weights are equal: x is the plain mean of z_1 to z_t."""
    tx = optax_wsd.schedule_free(direction, 0.01, b1=0.9)
    params = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3)}
    state, own = tx.init(params), direction.init(params)
    z, zs = params["w"], []
    update, direct = jax.jit(tx.update), jax.jit(direction.update)
    for k in range(10):
        grads = jax.tree.map(lambda p, k=k: p + jnp.sin(k + p), params)
        d, own = direct(grads, own, params)
        z = z - 0.01 * d["w"]
        zs.append(z)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(z_of(state, params)["w"], z, atol=1e-6)
        x = np.mean(zs, 0)
        got = optax_wsd.eval_params(state, params)["w"]
        np.testing.assert_allclose(got, x, atol=1e-6)
        np.testing.assert_allclose(params["w"], 0.9 * x + 0.1 * z, atol=1e-6)


def test_the_direction_receives_extra_arguments():
    def update(updates, state, params=None, *, value, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda g: value * g, updates), state

    scale_by_value = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
    tx = optax_wsd.schedule_free(scale_by_value, 1.0)
    params = jnp.zeros(())
    updates, _ = tx.update(jnp.ones(()), tx.init(params), params, value=3.0)
    assert float(updates) == -3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_params_lose_nothing_in_10_000_steps(dtype):
    """x within 1e-4 of the distance travelled; a float32 leaf beside is as if alone."""
    steps, dim = 10_000, 32
    start = np.asarray(jnp.asarray(noise(1, dim)[0], dtype), np.float64)
    pull = np.asarray(jnp.asarray(noise(steps, dim, 1) + start, dtype))
    want = reference.schedule_free(
        lambda k, _: pull[k].astype(np.float64),
        start,
        steps,
        kind="adamw",
        learning_rate=2.5e-3,
        b1=0.9,
    )[-1][0]
    tx = optax_wsd.schedule_free_adamw(2.5e-3)

    def run(params):
        def step(carry, g):
            params, state = carry
            grads = jax.tree.map(lambda p: g.astype(p.dtype), params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), pull)[0]

    params = {"low": jnp.asarray(start, dtype), "full": jnp.asarray(start, jnp.float32)}
    trained, state = jax.jit(run)(params)
    alone, _ = jax.jit(run)({"full": params["full"]})
    np.testing.assert_allclose(trained["full"], alone["full"], rtol=1e-6)
    unrounded = jax.tree.map(lambda p: p.astype(jnp.float32), trained)
    travelled = np.linalg.norm(want - start)
    for leaf in optax_wsd.eval_params(state, unrounded).values():
        assert np.linalg.norm(leaf - want) <= 1e-4 * travelled
    x = optax_wsd.eval_params(state, trained)["low"]
    assert x.dtype == dtype
    exact = optax_wsd.eval_params(state, unrounded)["low"]
    np.testing.assert_array_equal(x, exact.astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_params_are_the_rounding_of_y_at_every_step(dtype):
    """An update goes from where the params are, so that no rounding adds up."""
    tx = optax_wsd.schedule_free_sgd(1e-3)
    params = jnp.asarray([1.0, -0.3, 7.0], dtype)
    state, step = tx.init(params), jax.jit(tx.update)
    for k in range(20):
        updates, state = step(jnp.sin(k + jnp.arange(3.0)).astype(dtype), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(params, state.schedule_free_y.astype(dtype))


@pytest.mark.parametrize("b1", [0.0, 0.3, 0.5, 0.98])
def test_100_000_float32_steps_stay_within_1e_4_of_float64(b1):
    steps, dim = 100_000, 16
    inputs = np.float32(0.1 * noise(steps, dim))

    def last(dtype):
        tx = optax_wsd.schedule_free_sgd(1e-3, b1=b1)
        optimum = jnp.linspace(-1, 1, dim, dtype=dtype)

        def step(carry, n):
            y, state = carry
            updates, state = tx.update(0.3 * (y - optimum) + n, state, y)
            return (optax.apply_updates(y, updates), state), None

        start = jnp.ones(dim, dtype)
        run = jax.jit(lambda n: jax.lax.scan(step, (start, tx.init(start)), n)[0])
        y, state = run(jnp.asarray(inputs, dtype))
        return np.asarray(optax_wsd.eval_params(state, y))

    got = last(jnp.float32)
    with jax.enable_x64(True):
        want = last(jnp.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_weights_go_on_counting_past_2_to_24():
    """A plain float32 sum of ones ends there, and the average with it."""
    tx = optax_wsd.schedule_free_sgd(1.0)
    params = jnp.zeros(())
    state = tx.init(params)._replace(
        schedule_free_max_rate=jnp.ones([]),
        schedule_free_weight_sum=jnp.asarray([2.0**24, 0.0]),
    )

    def step(state, _):
        return tx.update(params, state, params)[1], None

    state, _ = jax.lax.scan(step, state, None, 1000)
    assert float(state.schedule_free_weight_sum[0]) == 2**24 + 1000


@pytest.mark.parametrize("rate", [1e-25, 1e25])
def test_weights_are_relative_to_the_largest_rate(rate):
    """rate^2 would leave float32; x is still the mean of z."""
    tx = optax_wsd.schedule_free_sgd(rate, warmup_steps=2)
    params = jnp.zeros(())
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jnp.ones(()), state, params)
        params = optax.apply_updates(params, updates)
    z = -np.cumsum([0.5, 1, 1])
    want = np.average(z, weights=[0.25, 1, 1]) * rate
    np.testing.assert_allclose(optax_wsd.eval_params(state, params), want, rtol=1e-5)


def test_a_rate_of_zero_changes_nothing():
    tx = optax_wsd.schedule_free_adamw(0.0)
    params = jnp.asarray([0.1, 0.7])
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
        np.testing.assert_array_equal(updates, 0)
    np.testing.assert_array_equal(optax_wsd.eval_params(state, params), params)


def test_decoupling_of_one_over_one_minus_b1_changes_nothing():
    inputs = jnp.asarray(noise(20), jnp.float32)
    with_c, without = (
        trajectory(
            optax_wsd.schedule_free_sgd(0.1, b1=0.9, decoupling=decoupling),
            jnp.ones(8),
            inputs,
            lambda n, y: y + n,
        )
        for decoupling in (1 / (1 - 0.9), None)
    )
    np.testing.assert_allclose(with_c, without, atol=1e-6)


def test_the_way_back_from_x_to_y_has_the_b1_of_its_update():
    """Under a schedule of b1, 0 and its last value included, at every step."""
    tx = optax_wsd.schedule_free_sgd(0.1, b1=lambda k: 0.9 - 0.3 * (k % 4))
    params = jnp.ones(3)
    state = tx.init(params)
    for k in range(8):
        updates, state = tx.update(jnp.arange(3.0) - k, state, params)
        params = optax.apply_updates(params, updates)
        x = optax_wsd.eval_params(state, params)
        back = optax_wsd.train_params(state, x)
        np.testing.assert_allclose(back, params, rtol=1e-6)
        assert (k == 0) == np.allclose(x, params, atol=1e-3)


@pytest.mark.parametrize(
    "direction",
    [
        optax.sgd(0.1),
        optax.adam(0.1),
        optax.chain(optax.scale_by_adam(), optax.scale(-1.0)),
        optax.partition({"a": optax.sgd(0.1)}, {"w": "a", "b": "a"}),
    ],
    ids=["sgd", "adam", "scale(-1)", "partition"],
)
@pytest.mark.parametrize("how", [lambda f: f, jax.jit, eval_shape])
def test_a_direction_that_goes_downhill_is_refused(direction, how):
    """The calling form of optax.contrib would go uphill."""
    tx = optax_wsd.schedule_free(direction, 0.1)
    with pytest.raises(ValueError, match="direction must be an ascent .* downhill"):
        how(tx.init)({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})


@pytest.mark.parametrize(
    "direction",
    [
        optax.centralize(),
        optax.chain(optax.add_noise(9.0, 0.5, key=0), optax.add_decayed_weights(1.0)),
        optax.GradientTransformationExtraArgs(
            lambda params: optax.EmptyState(),
            lambda updates, state, params=None, *, loss, **_: (-loss * updates, state),
        ),
    ],
    ids=["centralize", "noise", "extra arguments"],
)
def test_a_direction_that_cannot_be_told_passes(direction):
    params = jnp.ones((2, 3))
    jax.jit(optax_wsd.schedule_free(direction, 0.1).init)(params)

    @jax.jit
    def traced(rate):
        return optax_wsd.schedule_free(optax.scale(rate), 0.1).init(params)

    traced(1.0)


def test_an_update_writes_no_direction_into_memory():
    """Adam's arithmetic is done twice instead, behind a barrier."""
    tx = optax_wsd.schedule_free_adamw()
    params = jax.ShapeDtypeStruct((256, 256), jnp.float32)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    program = step.lower(params, jax.eval_shape(tx.init, params), params).compile()
    assert program.memory_analysis().temp_size_in_bytes < 256 * 256


FREEZE = {"train": False, "frozen": True}


@pytest.mark.parametrize("b1", [0.9, 0.3])
@pytest.mark.parametrize(
    "freeze",
    [
        lambda tx: optax.partition(
            {False: tx, True: optax.set_to_zero()}, {"train": False, "frozen": True}
        ),
        lambda tx: optax.selective_transform(tx, freeze_mask=FREEZE),
        lambda tx: optax.chain(optax.masked(optax.set_to_zero(), FREEZE), tx),
    ],
    ids=["partition", "selective_transform", "zero gradients"],
)
def test_frozen_leaves_are_bit_identical_in_train_and_eval(freeze, b1):
    start = {"train": jnp.full(3, 0.1), "frozen": jnp.asarray([0.1, 1 / 3, 1e-30])}
    tx = freeze(optax_wsd.schedule_free_adamw(0.1, b1=b1))
    params, state = start, tx.init(start)
    step = jax.jit(tx.update)
    for _ in range(20):
        updates, state = step(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    x = optax_wsd.eval_params(state, params)
    np.testing.assert_array_equal(params["frozen"], start["frozen"])
    np.testing.assert_array_equal(x["frozen"], start["frozen"])
    assert not np.any(params["train"] == start["train"])
    assert not np.any(x["train"] == params["train"])


def test_mask_says_what_is_decayed():
    start = {"matrix": jnp.ones((2, 2)), "bias": jnp.ones(2), "steps": jnp.arange(2)}
    tx = optax_wsd.schedule_free_adamw(
        0.1, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda q: q.ndim > 1, p)
    )
    grads = jax.tree.map(jnp.zeros_like, start)
    updates, _ = tx.update(grads, tx.init(start), start)
    np.testing.assert_allclose(updates["matrix"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)
    assert updates["steps"].dtype == start["steps"].dtype


@pytest.mark.parametrize(
    ("dtype", "b1", "size"),
    [
        (jnp.float32, 0.9, 8),
        (jnp.float32, 0.0, 8),
        (jnp.float32, rising_b1, 8),
        (jnp.bfloat16, 0.9, 12),
    ],
)
def test_bytes_of_state_per_parameter(dtype, b1, size):
    """The gap and the second moment, as AdamW; y where the params are its rounding."""
    tx = optax_wsd.schedule_free_adamw(b1=b1)
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((1000,), dtype))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert total - 1000 * size == 28  # counters, b1, c, largest rate, sum of weights


def test_shards_need_not_know_of_each_other():
    """Under shard_map each device trains its own part."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    inputs = jnp.asarray(noise(4, 16), jnp.float32)
    tx = optax_wsd.schedule_free_adamw(0.1)

    def run(inputs):
        y = jnp.ones(inputs.shape[1])
        state = tx.init(y)
        for n in inputs:
            updates, state = tx.update(y + n, state, y)
            y = optax.apply_updates(y, updates)
        return optax_wsd.eval_params(state, y)

    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=jax.P(None, "d"), out_specs=jax.P("d")
    )
    np.testing.assert_allclose(jax.jit(sharded)(inputs), run(inputs), atol=1e-6)


def test_adam_is_debiased_from_the_first_update_on():
    """The first direction is the gradient's sign, for any b2."""
    tx = optax_wsd.schedule_free_adamw(1.0, b2=0.9999999, eps=0.0)
    params = jnp.zeros(2)
    grads = jnp.asarray([3.0, -1e-3])
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates, [-1, 1], rtol=1e-6)


@pytest.mark.parametrize("b1", [0.8, optax_wsd.growing_b1_schedule(3)])
def test_y_is_the_end_of_a_rate_that_falls_to_1_minus_b1_of_it(b1):
    """z, x and y as the sums of directions that `growing_b1_schedule` is made from."""
    with jax.enable_x64(True):
        tx = optax_wsd.schedule_free(optax.identity(), 0.1, b1=b1)
        inputs = noise(STEPS)
        got = trajectory(tx, jnp.zeros(8), jnp.asarray(inputs), lambda d, y: d)
        now = [float(b1(n)) if callable(b1) else b1 for n in range(STEPS)]
    age = np.tril(np.arange(STEPS) / np.arange(1, STEPS + 1)[:, None])
    new = np.tril(np.ones((STEPS, STEPS)))
    x, y = (-0.1 * (new - b * age) @ inputs for b in (1, np.array(now)[:, None]))
    np.testing.assert_allclose(got[:, :2], np.stack([x, y], 1), rtol=0, atol=1e-12)


def test_radam_refuses_a_b2_that_never_trains():
    with pytest.raises(ValueError, match="b2 must be a finite number > 0.6"):
        optax_wsd.schedule_free_radam(b2=0.5)
