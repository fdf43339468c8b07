"""Merging afterwards: identities of recorded moves, averages rebuilt from others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from optax_wsd import (
    gamma_from_half_life,
    gamma_from_width,
    merge_params,
    merge_weights,
    post_hoc_ema_weights,
    shapes,
)

RUN = 256  # steps of the runs whose averages are rebuilt

any_shape = st.one_of(
    st.sampled_from(
        [
            shapes.linear,
            shapes.one_minus_sqrt,
            shapes.one_minus_square,
            shapes.cosine,
            shapes.mirror_cosine,
            lambda p: 0.25 + 0 * p,
            lambda p: 1 - p + jnp.sin(7 * p),
        ]
    ),
    st.floats(0.1, 8).map(shapes.power),
    st.floats(0.01, 1).map(shapes.lowered_linear),
    st.floats(1e-6, 0.99).map(shapes.exponential),
)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), any_shape, st.integers(0, 2**32 - 1))
def test_merging_equals_decaying_the_moves(n, shape, seed):
    """Snapshot 0 plus w_i times move i, for every shape, falling or not."""
    moves = np.random.default_rng(seed).normal(size=(n, 3))
    snapshots = np.cumsum(moves, axis=0)
    w = [float(shape(np.float64(i / n))) for i in range(1, n)]
    decayed = snapshots[0] + sum(w_i * u for w_i, u in zip(w, moves[1:], strict=True))
    weights = merge_weights(n, shape)
    np.testing.assert_allclose(weights @ snapshots, decayed, atol=2e-5)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "shape, expected",
    [
        (shapes.linear, [1 / 9] * 9),
        (
            shapes.cosine,
            [0.030, 0.087, 0.133, 0.163, 0.174, 0.163, 0.133, 0.087, 0.030],
        ),
        (
            shapes.one_minus_sqrt,
            [0.333, 0.138, 0.106, 0.089, 0.079, 0.071, 0.065, 0.061, 0.057],
        ),
    ],
)
def test_weights_are_those_of_warmup_stable_merge(shape, expected):
    np.testing.assert_allclose(merge_weights(9, shape), expected, atol=6e-4)


def test_one_snapshot_is_its_own_merge():
    assert merge_weights(1, shapes.one_minus_sqrt).tolist() == [1.0]


@pytest.mark.parametrize("shape", [shapes.linear, shapes.one_minus_sqrt])
def test_merging_a_plain_sgd_run_equals_decaying_its_updates(shape):
    """On recorded gradients, SGD with decayed rates ends where the merge is."""
    steps, k = 40, 8
    tx = optax.sgd(0.1)
    target = jax.random.normal(jax.random.key(0), (steps, 16))
    params = {"w": jnp.zeros(16)}
    state = tx.init(params)
    snapshots, updates = [], []
    for t in range(steps):
        grads = jax.grad(lambda p, t=t: jnp.sum((p["w"] - target[t]) ** 2))(params)
        update, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, update)
        updates.append(update)
        if (t + 1) % (steps // k) == 0:
            snapshots.append(params)
    decayed = snapshots[0]
    for t in range(steps // k, steps):
        w = float(shape(np.float64((t // (steps // k)) / k)))
        decayed = jax.tree.map(lambda d, u, w=w: d + w * u, decayed, updates[t])
    merged = merge_params(iter(snapshots), merge_weights(k, shape))
    np.testing.assert_allclose(merged["w"], decayed["w"], atol=1e-6)


def test_merge_keeps_structure_dtypes_and_the_last_of_what_is_no_number():
    def snapshot(i):
        return {
            "half": jnp.full((2, 3), i, jnp.bfloat16),
            "single": jnp.full(3, i, jnp.float32),
            "numpy": np.full(2, i, np.float64),
            "count": jnp.asarray(i, jnp.int32),
            "key": jax.random.key(i),
        }

    merged = merge_params(map(snapshot, range(3)), [0.25, 0.25, 0.5])
    assert jax.tree.structure(merged) == jax.tree.structure(snapshot(0))
    for name, leaf in snapshot(0).items():
        assert merged[name].dtype == leaf.dtype
        assert merged[name].shape == leaf.shape
    for name in ("half", "single", "numpy"):
        assert np.all(np.asarray(merged[name], float) == 1.25)
    assert isinstance(merged["numpy"], np.ndarray)
    assert merged["count"] == 2
    assert merged["key"] == jax.random.key(2)


def test_low_precision_params_are_summed_in_float32():
    """A bfloat16 sum of a thousand equal snapshots would stop growing halfway."""
    n = 1000
    merged = merge_params(
        (jnp.ones(3, jnp.bfloat16) for _ in range(n)), np.full(n, 1 / n)
    )
    assert merged.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("zeros", [np.zeros, jnp.zeros])
def test_snapshots_survive_and_are_released_one_by_one(zeros):
    """The sum never aliases a snapshot, and no snapshot is asked for early."""
    asked = []
    kept = [zeros(3) + i for i in range(4)]

    def snapshots():
        for i, snapshot in enumerate(kept):
            asked.append(i)
            yield snapshot

    merge_params(snapshots(), [0.25] * 4)
    assert asked == [0, 1, 2, 3]
    assert [leaf.tolist() for leaf in kept] == [[i] * 3 for i in range(4)]


def test_merge_keeps_the_sharding():
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    snapshots = [jax.device_put(jnp.ones(4), sharding)] * 2
    assert merge_params(snapshots, [0.5, 0.5]).sharding == sharding


@pytest.mark.parametrize(
    "snapshots, weights, match",
    [
        (
            [np.zeros(2)],
            [0.5, 0.5],
            r"snapshots must be as many .*weights \(2\), got 1",
        ),
        ([np.zeros(2)] * 3, [0.5, 0.5], "snapshots must be as many"),
        ([], [], "weights must be a list"),
        ([np.zeros(2)], [2.0], "weights must be numbers that sum to 1: .* got 2.0"),
        ([np.zeros(2)], [math.nan], "weights must be a finite number"),
        ([np.zeros(2), np.zeros(1)], [0.5, 0.5], "snapshots must be of shape"),
        ([{"a": np.zeros(1)}, {"b": np.zeros(1)}], [0.5, 0.5], "[Kk]ey"),
    ],
)
def test_merge_params_refuses(snapshots, weights, match):
    with pytest.raises(ValueError, match=match):
        merge_params(snapshots, weights)


@pytest.mark.parametrize(
    "n, shape, match",
    [
        (0, shapes.linear, "num_snapshots must be a whole number from 1"),
        (2.5, shapes.linear, "num_snapshots"),
        (4, "linear", "shape must be a function"),
        (4, lambda p: jnp.log(p - 1), "shape must be .* to a finite multiplier"),
    ],
)
def test_merge_weights_refuses(n, shape, match):
    with pytest.raises(ValueError, match=match):
        merge_weights(n, shape)


def power_average(params, gamma, step):
    """The online recurrence: sample t comes in with weight 1-(1-1/t)^(gamma+1)."""
    average = params[0]
    for t in range(1, step + 1):
        c = 1 - (1 - 1 / t) ** (gamma + 1)
        average = average + c * (params[t - 1] - average)
    return average


@pytest.mark.parametrize("gammas", [(16.97, 6.94), (1.0, 16.0)])
@pytest.mark.parametrize("noise", ["walk", "white"])
def test_any_gamma_between_two_stored_ones_is_rebuilt_within_one_percent(gammas, noise):
    params = np.random.default_rng(0).normal(size=(RUN, 200))
    if noise == "walk":
        params = np.cumsum(params, axis=0)
    stored = [(RUN * i // 16, g) for i in range(1, 17) for g in gammas]
    averages = [power_average(params, g, t) for t, g in stored]
    for gamma in np.geomspace(*gammas, 5):
        direct = power_average(params, gamma, RUN)
        rebuilt = merge_params(averages, post_hoc_ema_weights(stored, gamma, RUN))
        error = np.linalg.norm(rebuilt - direct) / np.linalg.norm(direct)
        assert error < 0.01


def test_a_stored_average_is_found_again():
    stored = [(t, g) for t in (10, 20, 30) for g in (2.0, 8.0)]
    for i, (t, g) in enumerate(stored):
        np.testing.assert_allclose(
            post_hoc_ema_weights(stored, g, t), np.eye(6)[i], atol=1e-10
        )


def test_post_hoc_weights_are_the_least_squares_of_the_profiles():
    """Against quadrature of the weights on the past, and its normal equations."""
    stored, gamma, step = [(3, 0.0), (5, 2.0), (8, 5.0)], 1.5, 6

    def profile(t, g):
        return lambda s: (g + 1) * s**g / t ** (g + 1) * (s <= t)

    def inner(p, q):
        return integrate.quad(lambda s: p(s) * q(s), 0, 8, points=[3, 5, 6])[0]

    profiles = [profile(t, g) for t, g in stored]
    gram = [[inner(p, q) for q in profiles] for p in profiles]
    x = np.linalg.solve(gram, [inner(p, profile(step, gamma)) for p in profiles])
    np.testing.assert_allclose(
        post_hoc_ema_weights(stored, gamma, step), x / x.sum(), rtol=1e-6
    )


@pytest.mark.parametrize(
    "stored, gamma, step, match",
    [
        ([], 1.0, 1, "stored must be a list of"),
        ([(1, 2, 3)], 1.0, 1, "stored must be a list of"),
        ([(0, 2.0)], 1.0, 1, "stored step must be"),
        ([(10, -0.5)], 1.0, 1, "stored gamma must be"),
        ([(10, 2.0)], -0.7, 1, "gamma must be"),
        ([(10, 2.0)], 1.0, 0, "step must be"),
        ([(10, 2.0), (20, 2.0)], 1.0, 21, "at most the last stored step, 20, got 21"),
        ([(10, 2.0), (10, 2.0)], 1.0, 10, "averages that differ enough"),
        ([(10, 2.0), (10, 2.0 + 1e-7)], 1.0, 10, "averages that differ enough"),
    ],
)
def test_post_hoc_ema_weights_refuses(stored, gamma, step, match):
    with pytest.raises(ValueError, match=match):
        post_hoc_ema_weights(stored, gamma, step)


@given(st.floats(0, 1e4))
def test_gamma_from_width_inverts_the_width(gamma):
    width = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert gamma_from_width(min(width, 12**-0.5)) == pytest.approx(
        gamma, rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize(
    "width, gamma",
    [(0.05, 16.97), (0.1, 6.94), (0.15, 3.56), (0.2, 1.83), (0.25, 0.72)],
)
def test_widths_of_edm2(width, gamma):
    assert gamma_from_width(width) == pytest.approx(gamma, abs=0.005)


@given(st.floats(0.01, math.log(2)))
def test_half_life_is_that_of_the_rate_and_holds_half_of_the_last_weight(fraction):
    exponent = gamma_from_half_life(fraction) + 1
    t = 1e7
    assert (1 - 1 / t) ** exponent == pytest.approx(
        2 ** (-1 / (fraction * t)), abs=1e-12
    )
    assert math.exp(-fraction) ** exponent == pytest.approx(0.5)


@pytest.mark.parametrize("width", [0.0, 0.3, math.nan])
def test_gamma_from_width_refuses(width):
    with pytest.raises(ValueError, match="relative_width must be"):
        gamma_from_width(width)


@pytest.mark.parametrize("fraction", [0.0, 0.7, math.inf])
def test_gamma_from_half_life_refuses(fraction):
    with pytest.raises(ValueError, match="fraction must be"):
        gamma_from_half_life(fraction)


def test_python_floats_are_numbers():
    snapshots = [{"scale": 1.0, "z": 1j, "n": 1}, {"scale": 3.0, "z": 3j, "n": 2}]
    merged = merge_params(snapshots, [0.25, 0.75])
    assert merged == {"scale": 2.5, "z": 2.5j, "n": 2}
    assert type(merged["scale"]) is float


@pytest.mark.parametrize("weights", [[0.9995], [2.0, -0.9995], [0.333, 0.333, 0.333]])
def test_weights_that_shrink_the_model_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be numbers that sum to 1: div"):
        merge_params([np.ones(2)] * len(weights), weights)


def test_weights_rounded_to_float32_leave_the_size_as_it_was():
    weights = np.full(3, 1 / 3, np.float32) * np.float32(1 + 2e-7)
    assert abs(float(np.sum(weights, dtype=np.float64)) - 1) > 1e-7
    merged = merge_params([np.ones(2)] * 3, weights)
    np.testing.assert_allclose(merged, 1, rtol=1e-15)
