"""Shapes and schedules against float64 formulas, at every scale of steps."""

import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import optax_wsd
from optax_wsd import shapes

LAST_STEP = 2**31 - 1
ULP = 2.0**-23

# Each shape as a float64 function of p and of q = 1 - p, both given exactly.
FORMULAS = {
    "linear": (shapes.linear, lambda p, q: q),
    "one_minus_sqrt": (shapes.one_minus_sqrt, lambda p, q: q / (1 + np.sqrt(p))),
    "one_minus_square": (shapes.one_minus_square, lambda p, q: q * (1 + p)),
    "one_minus_power": (
        shapes.one_minus_power(0.3),
        lambda p, q: np.where(
            q < 0.5, -np.expm1(0.3 * np.log1p(-np.minimum(q, 0.5))), 1 - p**0.3
        ),
    ),
    "cosine": (shapes.cosine, lambda p, q: np.sin(np.pi / 2 * q) ** 2),
    "mirror_cosine": (
        shapes.mirror_cosine,
        lambda p, q: 2 * q - np.sin(np.pi / 2 * q) ** 2,
    ),
    "power": (shapes.power(1.7), lambda p, q: q**1.7),
    "lowered_linear": (shapes.lowered_linear(0.7), lambda p, q: 0.7 * q),
    "exponential": (
        shapes.exponential(0.01),
        lambda p, q: 0.01 * np.expm1(-np.log(0.01) * q) / 0.99,
    ),
}


def wsd_float64(
    steps, peak, total, warmup, cooldown, init=0.0, end=0.0, shape="linear"
):
    """The WSD formula, with the value as stored in float32 for the three levels."""
    peak, init, end = (float(np.float32(v)) for v in (peak, init, end))
    steps = np.asarray(steps, np.float64)
    value = np.full(steps.shape, peak)
    rising = steps < warmup
    value[rising] = init + (peak - init) * np.maximum(steps[rising], 0) / warmup
    if cooldown:
        elapsed = np.minimum(steps - (total - cooldown), cooldown)
        falling = elapsed >= 0
        p = elapsed[falling] / cooldown
        q = (cooldown - elapsed[falling]) / cooldown
        value[falling] = end + (peak - end) * FORMULAS[shape][1](p, q)
    return value


def telling_steps(total, warmup, cooldown):
    """Steps around every border, the last ones of the run, and some in between."""
    around = np.arange(-1000, 1001)
    borders = [0, warmup, total - cooldown, total, LAST_STEP]
    steps = np.concatenate(
        [b + around for b in borders] + [np.linspace(0, total, 9999)]
    )
    return np.sort(np.clip(steps, 0, LAST_STEP)).astype(np.int32)


@pytest.mark.parametrize("shape", FORMULAS)
def test_shapes_are_their_formula(shape):
    p = np.linspace(0, 1, 1001)
    got = FORMULAS[shape][0](jnp.asarray(p))
    np.testing.assert_allclose(got, FORMULAS[shape][1](p, 1 - p), atol=4 * ULP)


@pytest.mark.parametrize("shape", FORMULAS)
@pytest.mark.parametrize(
    "total, warmup, cooldown",
    [
        (100, 10, 20),
        (10**5, 1000, 20_000),
        (2 * 10**9, 10**6, 4 * 10**8),
        (LAST_STEP, 0, LAST_STEP),
        (10, 0, 1),
        (10, 9, 1),
    ],
)
def test_wsd_is_its_formula_at_every_scale(shape, total, warmup, cooldown):
    """Within 2e-7 of the peak, and within 10 ulp relative down to the last step."""
    schedule = optax_wsd.wsd_schedule(
        1e-3,
        total,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        shape=FORMULAS[shape][0],
    )
    steps = telling_steps(total, warmup, cooldown)
    got = np.asarray(jax.jit(schedule)(steps), np.float64)
    want = wsd_float64(steps, 1e-3, total, warmup, cooldown, shape=shape)
    assert np.abs(got - want).max() <= 2e-7 * 1e-3
    np.testing.assert_allclose(got, want, rtol=10 * ULP, atol=0)
    assert got.min() >= 0 and got.max() <= np.float32(1e-3)
    assert np.all(got[steps >= total] == 0)


def test_linear_over_the_whole_run_is_optax_linear_schedule():
    ours = optax_wsd.wsd_schedule(
        1.0, 100, warmup_steps=0, cooldown_steps=100, shape=shapes.linear
    )
    steps = jnp.arange(200)
    theirs = optax.linear_schedule(1.0, 0.0, 100)(steps)
    np.testing.assert_allclose(ours(steps), theirs, rtol=0, atol=ULP)


def test_exponential_with_its_end_value_is_geometric():
    schedule = optax_wsd.wsd_schedule(
        2.0,
        100,
        warmup_steps=0,
        cooldown_steps=100,
        end_value=0.02,
        shape=shapes.exponential(0.01),
    )
    steps = np.arange(101)
    want = 2.0 * 0.01 ** (steps / 100)
    np.testing.assert_allclose(schedule(steps), want, rtol=4e-6)


lengths = st.integers(0, 2**30)


@settings(deadline=None, max_examples=60)
@given(
    warmup=lengths,
    stable=lengths,
    cooldown=st.integers(0, 2**30 - 1),
    peak=st.floats(2**-20, 8, width=32),
    floor=st.just(0.0) | st.floats(2**-99, 1),  # XLA flushes subnormals to 0
    shape=st.sampled_from(sorted(FORMULAS)),
)
@example(warmup=0, stable=0, cooldown=1, peak=1.0, floor=0.0, shape="one_minus_sqrt")
@example(warmup=1, stable=0, cooldown=0, peak=1.0, floor=0.5, shape="linear")
@example(warmup=0, stable=0, cooldown=1, peak=1.0, floor=0.0, shape="lowered_linear")
def test_wsd_rises_stays_and_falls_within_its_bounds(
    warmup, stable, cooldown, peak, floor, shape
):
    total = max(min(warmup + stable + cooldown, LAST_STEP), 1)
    warmup = min(warmup, total - cooldown)
    end = np.float32(floor * peak)
    schedule = optax_wsd.wsd_schedule(
        peak,
        total,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        end_value=end,
        init_value=end,
        shape=FORMULAS[shape][0],
    )
    steps = telling_steps(total, warmup, cooldown)
    steps = np.concatenate([np.arange(-10, 0, dtype=np.int32), steps])
    value = np.asarray(schedule(steps))
    assert np.isfinite(value).all()
    slack = np.float32(2 * ULP * peak)
    assert value.min() >= end - slack and value.max() <= np.float32(peak) + slack
    change = np.diff(value)
    start = total - cooldown
    rising = (steps[1:] <= warmup) & (steps[1:] < start)
    assert (change[rising] >= -slack).all()
    assert (change[steps[1:] > start] <= slack).all()
    flat = (steps >= warmup) & (steps < start)
    assert (value[flat] == np.float32(peak)).all()
    assert (value[steps >= total] == (end if cooldown else np.float32(peak))).all()


@settings(deadline=None, max_examples=60)
@given(
    warmup=lengths,
    stable=lengths,
    cooldown=st.integers(0, 2**30 - 1),
    at=st.floats(0, 1),
    shape=st.sampled_from(sorted(FORMULAS)),
)
def test_any_wsd_is_its_formula_down_to_its_last_step(
    warmup, stable, cooldown, at, shape
):
    total = max(min(warmup + stable + cooldown, LAST_STEP), 1)
    warmup = min(warmup, total - cooldown)
    steps = np.int32([at * (total - 1), total - 1])
    phases = {"warmup_steps": warmup, "cooldown_steps": cooldown}
    shape_of = FORMULAS[shape][0]
    schedule = optax_wsd.wsd_schedule(0.3, total, **phases, shape=shape_of)
    want = wsd_float64(steps, 0.3, total, warmup, cooldown, shape=shape)
    np.testing.assert_allclose(schedule(steps), want, rtol=10 * ULP)


@settings(deadline=None, max_examples=60)
@given(
    warmup=st.integers(0, 2**20),
    stable=st.integers(0, 2**20),
    cooldown=st.integers(1, 2**20),
    shape=st.sampled_from(["linear", "one_minus_sqrt"]),
)
def test_no_wsd_jumps(warmup, stable, cooldown, shape):
    """Its steps are those of the warmup and the first of the cooldown, at most."""
    total, (shape_of, formula) = warmup + stable + cooldown, FORMULAS[shape]
    phases = {"warmup_steps": warmup, "cooldown_steps": cooldown}
    schedule = optax_wsd.wsd_schedule(1.0, total, **phases, shape=shape_of)
    borders = np.array([0, warmup, total - cooldown, total])
    steps = np.maximum(borders[:, None] + np.arange(-9, 10), 0)
    rise, fall = 1 / max(warmup, 1), 1 - formula(1 / cooldown, 1 - 1 / cooldown)
    change = np.asarray(schedule(steps + 1) - schedule(steps))
    assert change.max() <= rise + ULP and change.min() >= -fall - ULP


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 10**9), steps=st.integers(1, 10**9))
def test_a_branch_is_the_schedule_planned_for_its_budget(start, steps):
    stable = optax_wsd.wsd_schedule(
        1.0, LAST_STEP, warmup_steps=min(100, start), cooldown_steps=0
    )
    branch = optax_wsd.cooldown_schedule(stable, start, steps)
    planned = optax_wsd.wsd_schedule(
        1.0, start + steps, warmup_steps=min(100, start), cooldown_steps=steps
    )
    at = telling_steps(start + steps, min(100, start), steps)
    np.testing.assert_array_equal(branch(at), planned(at))


def test_cooldown_schedule_holds_the_value_at_its_start():
    """A schedule that moves goes on from the value at start_step, not from its peak."""
    stable = optax_wsd.inverse_power_schedule(1.0, warmup_steps=100)
    schedule = optax_wsd.cooldown_schedule(
        stable, 400, 100, end_value=0.1, shape=shapes.linear
    )
    np.testing.assert_allclose(
        schedule(np.array([100, 400, 450, 500, 10**9])),
        [1, 0.5, 0.3, 0.1, 0.1],
        rtol=1e-6,
    )


def test_wsds_cools_down_before_every_end_and_goes_straight_back():
    schedule = optax_wsd.wsds_schedule(
        1.0,
        [50, 100, 110],
        warmup_steps=10,
        cooldown_steps=10,
        end_value=0.5,
        shape=shapes.linear,
    )
    steps = np.array([0, 5, 10, 39, 40, 45, 49, 50, 89, 95, 99, 100, 105, 110, 10**9])
    want = [0, 0.5, 1, 1, 1, 0.75, 0.55, 1, 1, 0.75, 0.55, 1, 0.75, 0.5, 0.5]
    np.testing.assert_allclose(schedule(steps), want, rtol=1e-6)


def test_wsds_with_one_end_is_wsd():
    wsds = optax_wsd.wsds_schedule(1.0, [100], warmup_steps=10, cooldown_steps=20)
    wsd = optax_wsd.wsd_schedule(1.0, 100, warmup_steps=10, cooldown_steps=20)
    steps = jnp.arange(300)
    np.testing.assert_array_equal(wsds(steps), wsd(steps))


def test_multistep_falls_at_its_boundaries():
    schedule = optax_wsd.multistep_schedule(2.0, (80, 90), warmup_steps=10)
    got = schedule(np.array([0, 5, 10, 79, 80, 89, 90, 10**9]))
    want = [0, 1, 2, 2, 2 * 10**-0.5, 2 * 10**-0.5, 0.2, 0.2]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("offset, exponent", [(0, 0.5), (1000, 0.51), (0, 0)])
def test_inverse_power_is_its_formula(offset, exponent):
    schedule = optax_wsd.inverse_power_schedule(
        0.1, warmup_steps=100, offset_steps=offset, exponent=exponent
    )
    steps = np.array([100, 101, 1000, 10**6, LAST_STEP])
    want = 0.1 * ((steps + float(offset)) / (100 + offset)) ** -exponent
    np.testing.assert_allclose(schedule(steps), want, rtol=2e-6)
    np.testing.assert_allclose(schedule(np.array([0, 50])), [0, 0.05], rtol=1e-6)


@pytest.mark.parametrize("offset", [1, 20, 1000])
def test_growing_b1_is_its_formula_from_the_first_step_to_the_last(offset):
    steps = np.array([0, 1, 2, 60, 1980, 10**6, LAST_STEP])
    want = -np.expm1(0.5 * np.log(offset / (steps + float(offset))))
    got = optax_wsd.growing_b1_schedule(offset)(steps)
    np.testing.assert_allclose(got, want, rtol=4 * ULP)


def test_infinite_falls_to_its_constant_and_stays():
    schedule = optax_wsd.infinite_schedule(
        1.0, 0.5, warmup_steps=10, transition_steps=20
    )
    got = schedule(np.array([0, 5, 10, 20, 30, LAST_STEP]))
    np.testing.assert_allclose(got, [0, 0.5, 1, 0.75, 0.5, 0.5], rtol=1e-6)


def test_the_stable_value_is_the_peak_to_the_last_bit():
    """Also above it, where end + (peak - end) rounds away from the peak."""
    peak, above = np.float32(0.1), 1.0
    wsd = optax_wsd.wsd_schedule(
        peak, 100, warmup_steps=10, cooldown_steps=20, init_value=above, end_value=above
    )
    rising = optax_wsd.infinite_schedule(
        peak, above, warmup_steps=10, transition_steps=20, init_value=above
    )
    assert wsd(50) == wsd(10) == wsd(80) == rising(10) == peak
    assert wsd(0) == wsd(100) == rising(0) == rising(30) == above


SCHEDULES = {
    "wsd": lambda peak, n: optax_wsd.wsd_schedule(
        peak, 10 * n, warmup_steps=n, cooldown_steps=3 * n
    ),
    "cooldown": lambda peak, n: optax_wsd.cooldown_schedule(peak, 5 * n, 4 * n),
    "wsds": lambda peak, n: optax_wsd.wsds_schedule(
        peak, jnp.array([5, 10]) * n, warmup_steps=n, cooldown_steps=2 * n
    ),
    "multistep": lambda peak, n: optax_wsd.multistep_schedule(
        peak, jnp.array([8, 9]) * n, warmup_steps=n
    ),
    "inverse_power": lambda peak, n: optax_wsd.inverse_power_schedule(
        peak, warmup_steps=n, offset_steps=n
    ),
    "growing_b1": lambda peak, n: optax_wsd.growing_b1_schedule(n),
    "infinite": lambda peak, n: optax_wsd.infinite_schedule(
        peak, peak / 2, warmup_steps=n, transition_steps=5 * n
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_sweep_over_peaks_and_lengths_is_one_compile(name):
    traces = 0

    @jax.jit
    @jax.vmap
    def sweep(peak, n):
        nonlocal traces
        traces += 1
        return jax.vmap(SCHEDULES[name](peak, n))(jnp.arange(120))

    peaks, lengths = jnp.array([0.1, 1.0, 2.0]), jnp.array([3, 10, 11])
    got = sweep(peaks, lengths)
    sweep(2 * peaks, lengths + 1)
    assert traces == 1
    for i in range(3):
        want = SCHEDULES[name](float(peaks[i]), int(lengths[i]))(jnp.arange(120))
        np.testing.assert_allclose(got[i], want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_kind_of_step_gives_the_same_value(name):
    schedule = SCHEDULES[name](1.0, 7)
    want = float(schedule(jnp.int32(51)))
    kinds = [51, np.int64(51), np.uint8(51), np.array(51), jnp.uint32(51)]
    assert [float(schedule(step)) for step in kinds] == [want] * len(kinds)
    assert float(schedule(np.array([[51]]))[0, 0]) == want
    assert float(jax.jit(schedule)(51)) == pytest.approx(want, rel=4 * ULP)
    assert schedule(51).dtype == jnp.float32
    assert np.isfinite(float(schedule(LAST_STEP)))
    assert float(schedule(jnp.uint32(2**32 - 1))) == float(schedule(LAST_STEP))


@functools.cache
def programs(name):
    """The values of a schedule by jit, by vmap and by scan, each compiled once."""

    def by_scan(peak, n, steps):
        schedule = SCHEDULES[name](peak, n)
        return jax.lax.scan(lambda _, step: (None, schedule(step)), None, steps)[1]

    def by_jit(peak, n, steps):
        return SCHEDULES[name](peak, n)(steps)

    return [jax.jit(f) for f in (by_jit, jax.vmap(by_jit, (None, None, 0)), by_scan)]


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None, max_examples=20)
@given(
    peak=st.floats(2**-20, 8, width=32),
    n=st.integers(2, 10**8),
    at=st.tuples(*[st.floats(0, 12)] * 3),
)
def test_jit_vmap_and_scan_equal_eager(name, peak, n, at):
    steps = np.int32(np.multiply(at, n))
    want = SCHEDULES[name](peak, n)(steps)
    for program in programs(name):
        got = program(np.float32(peak), np.int32(n), steps)
        np.testing.assert_allclose(got, want, rtol=4 * ULP)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gradient_is_finite_everywhere(name):
    """No phase that is not taken leaks a NaN through `where`."""

    def value(peak, step):
        return SCHEDULES[name](peak, 7)(step)

    with jax.debug_nans(True):
        grads = jax.vmap(jax.grad(value), (None, 0))(1.0, jnp.arange(0, 200))
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_are_float64_under_x64(name):
    with jax.enable_x64(True):
        value = SCHEDULES[name](1.0, 7)(np.int32(51))
        assert value.dtype == jnp.float64


def test_wsd_under_x64_is_the_float64_formula():
    with jax.enable_x64(True):
        schedule = optax_wsd.wsd_schedule(
            0.5, 10**5, warmup_steps=10, cooldown_steps=777
        )
        steps = np.arange(99_000, 10**5)
        want = wsd_float64(steps, 0.5, 10**5, 10, 777, shape="one_minus_sqrt")
        np.testing.assert_allclose(schedule(steps), want, rtol=5e-14)


def test_shapes_without_arguments_can_be_pickled():
    """A config that names its shape survives a trip to another process."""
    for name in ("linear", "one_minus_sqrt", "one_minus_square", "cosine"):
        shape = getattr(shapes, name)
        assert pickle.loads(pickle.dumps(shape)) is shape


WSD = dict(peak_value=1.0, total_steps=100, warmup_steps=10, cooldown_steps=20)
WSDS = dict(peak_value=1.0, end_steps=(50, 100), warmup_steps=10, cooldown_steps=20)
STEP = dict(peak_value=1.0, boundaries=(80, 90), warmup_steps=10)
INVERSE = dict(peak_value=1.0, warmup_steps=10)
INFINITE = dict(
    peak_value=1.0, constant_value=0.5, warmup_steps=10, transition_steps=10
)
COOLDOWN = dict(schedule=1.0, start_step=10, cooldown_steps=10)
REFUSALS = [
    ("wsd", WSD, dict(peak_value=-1.0), "peak_value must be .* >= 0, got -1.0"),
    ("wsd", WSD, dict(peak_value=float("nan")), "peak_value must be a finite number"),
    ("wsd", WSD, dict(peak_value="fast"), "peak_value must be .* got 'fast'"),
    ("wsd", WSD, dict(total_steps=0), "total_steps must be a whole number from 1"),
    ("wsd", WSD, dict(total_steps=100.0), "total_steps must be a whole number"),
    ("wsd", WSD, dict(total_steps=2**31), "total_steps must be .* to 2\\*\\*31 - 1"),
    ("wsd", WSD, dict(warmup_steps=-1), "warmup_steps must be .* got -1"),
    ("wsd", WSD, dict(cooldown_steps=0.2), "cooldown_steps must be a whole number"),
    ("wsd", WSD, dict(cooldown_steps=91), r"\(10, 91\)"),
    ("wsd", WSD, dict(init_value=-0.1), "init_value must be"),
    ("wsd", WSD, dict(end_value=float("inf")), "end_value must be"),
    ("wsd", WSD, dict(shape="linear"), "shape must be a function .* got 'linear'"),
    ("wsd", WSD, dict(shape=lambda p: 1 / p), "shape must be .* to a finite"),
    ("wsds", WSDS, dict(end_steps=()), "end_steps must be"),
    ("wsds", WSDS, dict(end_steps=(100, 50)), "end_steps must be ascending"),
    ("wsds", WSDS, dict(end_steps=(20, 100)), "end_steps must be ascending"),
    ("wsds", WSDS, dict(cooldown_steps=0), "cooldown_steps must be .* from 1"),
    ("wsds", WSDS, dict(shape=None), "shape must be a function"),
    ("multistep", STEP, dict(boundaries=(90, 80)), "boundaries must be ascending"),
    ("multistep", STEP, dict(boundaries=(5, 80)), "boundaries must be ascending"),
    ("multistep", STEP, dict(boundaries=(80,)), "as many steps as there are scales"),
    ("multistep", STEP, dict(scales=(-1.0, 0.1)), "scales must be"),
    ("multistep", STEP, dict(boundaries=80, scales=0.1), "boundaries must be a list"),
    ("wsd", WSD, dict(peak_value="1e-3"), "peak_value must be .* got '1e-3'"),
    ("wsd", WSD, dict(peak_value=None), "peak_value must be .* got None"),
    ("inverse_power", INVERSE, dict(warmup_steps=0), "offset_steps must be at least 1"),
    ("inverse_power", INVERSE, dict(exponent=-0.5), "exponent must be"),
    ("inverse_power", INVERSE, dict(offset_steps=-1), "offset_steps must be"),
    ("growing_b1", {}, dict(offset_steps=0), "offset_steps must be .* from 1"),
    ("growing_b1", {}, dict(offset_steps=20.0), "offset_steps must be a whole number"),
    ("infinite", INFINITE, dict(constant_value=-1.0), "constant_value must be"),
    ("infinite", INFINITE, dict(transition_steps=0), "transition_steps must be"),
    ("cooldown", COOLDOWN, dict(schedule="cosine"), "schedule must be"),
    ("cooldown", COOLDOWN, dict(start_step=-1), "start_step must be"),
    ("cooldown", COOLDOWN, dict(cooldown_steps=0), "cooldown_steps must be"),
    ("cooldown", COOLDOWN, dict(end_value=-1.0), "end_value must be"),
    ("cooldown", COOLDOWN, dict(shape=3), "shape must be"),
]


@pytest.mark.parametrize("name, good, bad, message", REFUSALS)
def test_wrong_arguments_are_refused_by_name(name, good, bad, message):
    factory = getattr(optax_wsd, f"{name}_schedule")
    factory(**good)
    with pytest.raises(ValueError, match=message):
        factory(**(good | bad))


@pytest.mark.parametrize(
    "step", [1.5, 2**31, -(2**31), np.int64(3_000_000_000), np.float32(3), "3"]
)
def test_a_step_that_is_no_count_is_refused(step):
    schedule = optax_wsd.wsd_schedule(**WSD)
    with pytest.raises(ValueError, match="step must be"):
        schedule(step)


def test_a_traced_step_that_is_no_count_is_refused():
    with pytest.raises(ValueError, match="step must be a whole number"):
        jax.eval_shape(optax_wsd.wsd_schedule(**WSD), 3.0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: shapes.power(0), "exponent must be"),
        (lambda: shapes.one_minus_power(-1.0), "exponent must be"),
        (lambda: shapes.lowered_linear(1.1), "level must be"),
        (lambda: shapes.exponential(1.0), "ratio must be"),
        (lambda: shapes.exponential(0.0), "ratio must be"),
    ],
)
def test_shapes_refuse_what_gives_no_fall(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "schedule, steps, report",
    [
        (optax_wsd.wsd_schedule(**WSD), 100, ["80 -> 100 .* falling", "first update"]),
        (optax_wsd.wsd_schedule(**WSD), 90, ["still falling at the end"]),
        (optax_wsd.wsds_schedule(**WSDS), 100, ["49 -> 50 .* jump"]),
        (lambda step: 1.0 - step / 50, 100, ["below 0 at step 200"]),
        (lambda step: jnp.cos(step / 50), 157, ["rises again past the end"]),
        (lambda step: 0.0 * step, 10, ["0 at every step"]),
        (lambda step: jnp.log(step - 5.0), 10, ["not finite at step 0"]),
        (
            lambda t: jnp.where(t == 30_001, jnp.nan, 1.0 + (t > 30_001)),
            60_000,
            ["not finite at step 30001"],
        ),
    ],
)
def test_describe_schedule_says_what_happens(schedule, steps, report):
    text = optax_wsd.describe_schedule(schedule, steps)
    for line in report:
        assert re.search(line, text), text


def test_describe_schedule_finds_borders_to_the_step():
    schedule = optax_wsd.wsd_schedule(
        1e-3, 10**9, warmup_steps=1_234_567, cooldown_steps=123_456_789
    )
    text = optax_wsd.describe_schedule(schedule, 10**9)
    assert "0 -> 1234567 " in text and "876543211 -> 1000000000" in text


@pytest.mark.parametrize(
    "schedule, steps, message",
    [(1e-3, 10, "schedule must be"), (lambda step: step, 0, "total_steps must be")],
)
def test_describe_schedule_refuses(schedule, steps, message):
    with pytest.raises(ValueError, match=message):
        optax_wsd.describe_schedule(schedule, steps)
