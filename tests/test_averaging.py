"""Averages of the params against float64, exactly where arithmetic allows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optax_wsd
from tests import reference

ROUNDING = 1e-6  # of values near 1, in float32

AVERAGES = {
    "ema": (optax_wsd.params_ema(0.9), lambda s: reference.ema(s, 0.9)),
    "ema of the last": (optax_wsd.params_ema(0.0), lambda s: s[-1]),
    "long ema": (optax_wsd.params_ema(0.99999), lambda s: reference.ema(s, 0.99999)),
    "traced ema": (
        optax_wsd.params_ema(jnp.asarray(0.9)),
        lambda s: reference.ema(s, 0.9),
    ),
    "power 0": (optax_wsd.params_power_ema(0.0), lambda s: np.mean(s, 0)),
    "power 6.94": (
        optax_wsd.params_power_ema(6.94),
        lambda s: reference.power_ema(s, 6.94),
    ),
    "swa": (optax_wsd.params_swa(), lambda s: np.mean(s, 0)),
    "swa of windows": (optax_wsd.params_swa(window=4), lambda s: window_mean(s, 4)),
    "lawa": (optax_wsd.params_lawa(5, every=1), lambda s: np.mean(s[-5:], 0)),
}
averages = pytest.mark.parametrize("name", AVERAGES)


def window_mean(samples, size):
    """Of the latest whole window; of the first one as far as it is."""
    whole = len(samples) // size * size
    return np.mean(samples[whole - size : whole] if whole else samples, 0)


def stream(steps, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(1 + rng.normal(size=(steps + 1, dim)), jnp.float32)


def feed(tx, points):
    """Params that move along points; yields params and state after each update."""
    params = points[0]
    state = tx.init(params)
    step = jax.jit(tx.update)
    for point in points[1:]:
        updates = (point - params).astype(params.dtype)
        _, state = step(updates, state, params)
        params = optax.apply_updates(params, updates)
        yield params, state


@averages
def test_the_first_sample_is_the_average_to_the_last_bit(name):
    """However far away the params were made."""
    tx, _ = AVERAGES[name]
    state = tx.init(jnp.asarray(1e8))
    _, state = tx.update(jnp.zeros([]), state, jnp.asarray(0.1))
    assert optax_wsd.eval_params(state, jnp.asarray(0.1)) == np.float32(0.1)


@averages
def test_every_average_is_its_definition_at_every_step(name):
    tx, definition = AVERAGES[name]
    samples = []
    for params, state in feed(tx, stream(25)):
        samples.append(np.asarray(params, np.float64))
        got = optax_wsd.eval_params(state, params)
        np.testing.assert_allclose(got, definition(samples), atol=ROUNDING)


@averages
def test_updates_pass_untouched(name):
    tx, _ = AVERAGES[name]
    params = {"w": jnp.ones(3)}
    updates = {"w": jnp.arange(3.0)}
    out, _ = tx.update(updates, tx.init(params), params)
    assert out is updates


@averages
def test_the_average_of_params_that_stand_still_is_exactly_them(name):
    tx, _ = AVERAGES[name]
    params = jnp.asarray([0.1, -1 / 3, 1e-30, 3e30])
    for _, state in feed(tx, jnp.stack([params] * 12)):
        np.testing.assert_array_equal(optax_wsd.eval_params(state, params), params)


@pytest.mark.parametrize(
    "make",
    [
        lambda **when: optax_wsd.params_ema(0.0, **when),
        lambda **when: optax_wsd.params_power_ema(3.0, **when),
        lambda **when: optax_wsd.params_swa(**when),
        lambda **when: optax_wsd.params_swa(window=2 * when["every"], **when),
        lambda **when: optax_wsd.params_lawa(3, **when),
    ],
)
def test_sampling_is_every_kth_update_after_start_step(make):
    """After update k the average is that of the samples alone; params before them."""
    every, start_step = 3, 4
    points = stream(20)
    tx, dense = make(every=every, start_step=start_step), make(every=1)
    sampled = points[start_step + every :: every]
    want = [s for _, s in feed(dense, jnp.concatenate([points[:1], sampled]))]
    for k, (params, state) in enumerate(feed(tx, points), start=1):
        samples = max(0, (k - start_step) // every)
        got = optax_wsd.eval_params(state, params)
        if samples == 0:
            np.testing.assert_array_equal(got, params)
        else:
            dense_params = optax_wsd.eval_params(want[samples - 1], params)
            np.testing.assert_allclose(got, dense_params, atol=ROUNDING)


def test_every_and_start_step_may_be_traced():
    points = stream(12)

    def last(every, start_step):
        tx = optax_wsd.params_ema(0.5, every=every, start_step=start_step)

        def step(carry, point):
            params, state = carry
            _, state = tx.update(point - params, state, params)
            return (point, state), None

        carry = points[0], tx.init(points[0])
        (params, state), _ = jax.lax.scan(step, carry, points[1:])
        return optax_wsd.eval_params(state, params)

    every, start = jnp.asarray([1, 2, 5]), jnp.asarray([0, 3, 11])
    got = jax.jit(jax.vmap(last))(every, start)
    for row, e, s in zip(got, every, start, strict=True):
        np.testing.assert_allclose(row, last(int(e), int(s)), atol=ROUNDING)
    np.testing.assert_array_equal(got[2], points[-1])  # no sample yet


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_samples_are_the_params_as_apply_updates_rounds_them(dtype):
    """With decay 0 the average is the sample: the same bits, under jit as without."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=500), dtype)
    updates = jnp.asarray(rng.normal(size=500) * 1e-2, dtype)
    tx = optax_wsd.params_ema(0.0)
    state = tx.init(params)
    want = optax.apply_updates(params, updates).astype(jnp.float32)
    for update in (tx.update, jax.jit(tx.update)):
        _, new = update(updates, state, params)
        assert new.params_ema.dtype == jnp.float32
        np.testing.assert_array_equal(new.params_ema, want)


def test_an_average_of_bfloat16_params_moves_at_decay_0_9999():
    params = jnp.ones(2, jnp.bfloat16)
    tx = optax_wsd.params_ema(0.9999)
    _, state = tx.update(jnp.zeros_like(params), tx.init(params), params)

    def step(state, _):
        return tx.update(jnp.ones_like(params), state, params)[1], None  # now at 2

    state, _ = jax.lax.scan(step, state, None, 20_000)
    past = 0.9999 ** np.arange(20_001)
    want = 1 + past[:-1].sum() / past.sum()
    np.testing.assert_allclose(state.params_ema, want, atol=2.0**-23 / 1e-4)


@pytest.mark.parametrize(
    ("noise", "spell", "traced"),
    [
        (1.0, float, False),
        (0.0, float, False),
        (0.0, np.float32, False),
        (0.0, jnp.float32, True),
    ],
)
def test_ema_of_100_000_float32_samples_at_decay_0_99999(noise, spell, traced):
    """Without a remainder: 2e-5 on the noisy stream, 1e-3 on the slow one.

    A traced decay is known where the state is made, as of `inject_hyperparams`.
    """
    steps, dim, decay = 100_000, 16, spell(0.99999)
    rng = np.random.default_rng(0)
    slow = 1 + 0.1 * np.sin(np.arange(dim) + np.arange(steps)[:, None] * 2e-5)
    points = np.float32(slow + noise * rng.normal(size=(steps, dim)))

    first = optax_wsd.params_ema(decay).init(points[0])

    def run(points, decay):
        tx = optax_wsd.params_ema(decay)

        def step(state, point):
            return tx.update(jnp.zeros_like(point), state, point)[1], None

        return jax.lax.scan(step, first, points)[0].params_ema

    static = () if traced else "decay"
    got = jax.jit(run, static_argnames=static)(points, decay=decay)
    want = reference.ema(points, float(decay))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_only_a_decay_that_is_known_and_above_0_9999_keeps_a_remainder():
    def remainder(decay):
        state = jax.eval_shape(optax_wsd.params_ema(decay).init, jnp.ones(3))
        return len(jax.tree.leaves(state.ema_remainder))

    known = [spell(d) for d in (0.9999, 0.99995) for spell in (float, np.float32)]
    assert list(map(remainder, [*known, jnp.float32(0.99995)])) == [0, 0, 1, 1, 1]
    traced = []
    jax.eval_shape(lambda d: traced.append(remainder(d)), 0.99995)
    assert traced == [0]


def test_a_float32_decay_is_taken_exactly_under_x64():
    decay, points = np.float32(0.1), np.arange(1.0, 5.0)
    with jax.enable_x64(True):
        *_, (_, state) = feed(optax_wsd.params_ema(decay), jnp.asarray([0.0, *points]))
        want = reference.ema(points, float(decay))
        np.testing.assert_allclose(state.params_ema, want, rtol=1e-14)


def test_a_remainder_starts_at_zero_whatever_the_params_are():
    params = jnp.asarray([jnp.nan, jnp.inf, 1.0])
    state = jax.jit(optax_wsd.params_ema(0.99999).init)(params)
    np.testing.assert_array_equal(state.ema_remainder, jnp.zeros(3, jnp.bfloat16))


@given(
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 60),
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
)
@settings(deadline=None, max_examples=25)
def test_any_decay_any_gamma_any_stream(decay, gamma, points):
    for tx, want in (
        (optax_wsd.params_ema(decay), reference.ema(points, decay)),
        (optax_wsd.params_power_ema(gamma), reference.power_ema(points, gamma)),
    ):
        params = jnp.zeros(())
        state = tx.init(params)
        for point in points:
            _, state = tx.update(jnp.float32(point), state, params)
        np.testing.assert_allclose(
            optax_wsd.eval_params(state, params), want, atol=100 * ROUNDING
        )


@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        (optax_wsd.params_ema(0.999), 1),
        (optax_wsd.params_ema(0.9999, every=10), 1),
        (optax_wsd.params_ema(0.99999), 1.5),
        (optax_wsd.params_power_ema(7.0), 1),
        (optax_wsd.params_swa(), 1),
        (optax_wsd.params_swa(window=500, every=5), 2),
        (optax_wsd.params_lawa(6, every=100), 6),
    ],
)
def test_memory_in_float32_copies_of_the_params(tx, copies):
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((1000,), jnp.bfloat16))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size == copies * 4 * 1000 + 2 * 4  # and two counters


def test_shards_need_not_know_of_each_other():
    """Under shard_map each device averages its own part."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = optax_wsd.params_ema(0.9)
    points = stream(3, dim=16)

    def run(points):
        state = tx.init(points[0])
        for old, new in zip(points, points[1:], strict=False):
            _, state = tx.update(new - old, state, old)
        return optax_wsd.eval_params(state, points[-1])

    spec = jax.P(None, "d")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=jax.P("d"))
    np.testing.assert_allclose(jax.jit(sharded)(points), run(points), atol=ROUNDING)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: optax_wsd.params_swa(window=5, every=2), r"window must .* \(2\)"),
        (lambda: optax_wsd.params_lawa(0, every=1), "size must"),
        (
            lambda: optax_wsd.params_ema(0.9, state_dtype=jnp.bfloat16),
            "state_dtype must be a float of 32 bits",
        ),
        (
            lambda: jax.jit(lambda e: optax_wsd.params_swa(window=4, every=e))(2),
            "window must .* traced",
        ),
    ],
)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make()
