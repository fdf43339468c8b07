"""Laws: against the printed sums, and against curves made by a law that is known."""

import functools
import itertools
import json
import math
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import laws as benchmark
from optax_wsd import cooldown_schedule, laws, shapes, wsd_schedule

PEAK = 2e-3
TRUTH = laws.LossLaw(
    floor=2.5,
    progress=0.29,
    progress_exponent=0.45,
    gain=0.15,
    rate_exponent=0.7,
    speed=0.05,
    response_exponent=0.5,
    peak_value=PEAK,
    reach=4000.0,
)
STEPS = np.arange(200, 4001, 50)


def schedule_rates(total_steps, cooldown_steps, shape=shapes.linear, end_value=0.0):
    schedule = wsd_schedule(
        PEAK,
        total_steps,
        warmup_steps=100,
        cooldown_steps=cooldown_steps,
        end_value=end_value,
        shape=shape,
    )
    return np.asarray(schedule(np.arange(total_steps)), np.float64)


def cosine_rates(total_steps, end=0.1):
    p = np.arange(total_steps) / total_steps
    return PEAK * (end + (1 - end) * (1 + np.cos(math.pi * p)) / 2)


def curve(rates, steps=STEPS, law=TRUTH, noise=0.0, seed=0):
    steps = steps[steps <= len(rates)]
    losses = law.predict(rates, steps)
    return (
        rates,
        steps,
        losses + noise * np.random.default_rng(seed).normal(size=len(steps)),
    )


TRUNK = schedule_rates(4000, 0)
BRANCH = schedule_rates(2500, 500, end_value=0.1 * PEAK)


# The convex bound


def bound_of_the_paper(rates, distance, gradient_norm):
    """Theorem 3.1 as it is printed: one sum inside another."""
    last = len(rates) - 1
    squares = gradient_norm**2 * rates**2
    bound = (distance**2 + squares.sum()) / (2 * rates.sum())
    for k in range(last):
        rest = rates[k:].sum()
        bound += rates[k] / rates[k + 1 :].sum() * squares[k:].sum() / rest / 2
    return bound


rates_lists = st.lists(st.floats(1e-6, 10), min_size=1, max_size=30)


@given(rates_lists, st.floats(0.1, 10), st.floats(0.1, 10))
def test_bound_is_that_of_the_paper(rates, distance, gradient_norm):
    bound = laws.last_iterate_bound(
        rates, distance=distance, gradient_norm=gradient_norm
    )
    expected = bound_of_the_paper(np.array(rates), distance, gradient_norm)
    assert bound == pytest.approx(expected, rel=1e-9)


@given(rates_lists, st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.01, 100))
def test_optimal_scale_has_the_least_bound(rates, distance, gradient_norm, other):
    units = {"distance": distance, "gradient_norm": gradient_norm}
    scale, bound = laws.optimal_scale(rates, **units)
    scaled = np.array(rates) * scale
    assert laws.last_iterate_bound(scaled, **units) == pytest.approx(bound)
    assert laws.last_iterate_bound(other * scaled, **units) >= bound * (1 - 1e-9)


@pytest.mark.parametrize(
    "cooldown, shape, scale, bound",
    [
        (0, shapes.linear, 0.01818, 0.13754),
        (20, shapes.linear, 0.02071, 0.12362),
        (40, shapes.linear, 0.02263, 0.11614),
        (80, shapes.linear, 0.02537, 0.10932),
        (160, shapes.linear, 0.03007, 0.10376),
        (240, shapes.linear, 0.03510, 0.10157),
        (320, shapes.linear, 0.04126, 0.10077),
        (400, shapes.linear, 0.04956, 0.10063),
        (40, shapes.one_minus_sqrt, 0.02354, 0.11363),
        (80, shapes.one_minus_sqrt, 0.02685, 0.10729),
        (160, shapes.one_minus_sqrt, 0.03313, 0.10272),
        (400, shapes.cosine, 0.04824, 0.10339),
        (400, lambda p: 0.1 + 0.9 * shapes.cosine(p), 0.04360, 0.10405),
    ],
)
def test_optimal_scales_of_schaipp_et_al(cooldown, shape, scale, bound):
    """Their code's values for 400 steps, D = G = 1 (arXiv:2501.18965)."""
    schedule = wsd_schedule(
        1.0, 400, warmup_steps=0, cooldown_steps=cooldown, shape=shape
    )
    got = laws.optimal_scale(schedule(np.arange(400)))
    assert got == pytest.approx((scale, bound), abs=6e-6)


def test_bound_of_a_million_constant_steps_is_exact():
    """The sums become harmonic numbers; quadratic sums would not come to an end."""
    n = 10**6
    harmonic = np.sum(1 / np.arange(1, n))
    expected = 1 / (2 * n * 0.01) + 0.01 / 2 * (1 + harmonic)
    assert laws.last_iterate_bound(np.full(n, 0.01)) == pytest.approx(
        expected, rel=1e-10
    )


def test_rates_of_zero_at_the_end_change_no_bound():
    rates = np.array([0.0, 0.5, 1.0, 0.25])
    assert laws.last_iterate_bound(np.append(rates, [0, 0])) == laws.last_iterate_bound(
        rates
    )


@pytest.mark.parametrize("fn", [laws.last_iterate_bound, laws.optimal_scale])
@pytest.mark.parametrize(
    "rates, units, match",
    [
        ([], {}, "learning_rates must be an array of one rate per update"),
        (0.1, {}, "learning_rates"),
        ([0.0, 0.0], {}, "some above 0"),
        ([0.1, -0.1], {}, "learning_rates"),
        ([0.1, math.nan], {}, "learning_rates"),
        ([0.1], {"distance": 0.0}, "distance must be"),
        ([0.1], {"gradient_norm": -1.0}, "gradient_norm must be"),
    ],
)
def test_bound_refuses(fn, rates, units, match):
    with pytest.raises(ValueError, match=match):
        fn(rates, **units)


def test_deepseek_laws():
    assert laws.deepseek_learning_rate(1e15) == pytest.approx(4.2e-3, abs=5e-5)
    assert laws.deepseek_batch_size(1e15) == pytest.approx(23_500, abs=100)
    for law, exponent in (
        (laws.deepseek_learning_rate, -0.125),
        (laws.deepseek_batch_size, 0.3271),
    ):
        assert law(1e20) / law(1e18) == pytest.approx(100**exponent)
        with pytest.raises(ValueError, match="compute must be"):
            law(0.0)


# The loss law


def predicted_by_the_formula(law, rates, n):
    """The sum over changes as it is printed, one change after the other."""
    x = np.asarray(rates) / law.peak_value
    first = int(np.argmax(x))
    progress = law.progress * (math.fsum(x[:n]) / law.reach) ** -law.progress_exponent
    q, part = law.rate_exponent, 0.0
    for k in range(first, n):
        drop = (x[k - 1] if k > first else 1.0) ** q - x[k] ** q
        part += drop * (
            1 - (1 + law.speed * math.fsum(x[k:n])) ** -law.response_exponent
        )
    gain = law.gain + 0.15 * (progress - law.progress)
    return law.floor + progress - gain * part


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(1e-4, PEAK), min_size=2, max_size=30), st.integers(0, 2**32 - 1)
)
def test_prediction_is_the_formula(rates, seed):
    """Also for rates that rise again, and for runs that stay below the peak."""
    n = 1 + seed % len(rates)
    expected = predicted_by_the_formula(TRUTH, rates, n)
    assert TRUTH.predict(rates, n) == pytest.approx(expected, rel=1e-10)


def test_many_changes_are_grouped_without_loss():
    rates = cosine_rates(3000, end=0.0)
    expected = predicted_by_the_formula(TRUTH, rates, 3000)
    assert TRUTH.predict(rates, 3000) == pytest.approx(expected, abs=1e-4)


def test_prediction_has_the_shape_of_steps():
    steps = np.array([[2, 10], [100, 4000]])
    assert TRUTH.predict(TRUNK, steps).shape == (2, 2)
    assert TRUTH.predict(TRUNK, 4000).shape == ()


OTHERS = {
    "cosine": cosine_rates(4000),
    "longer cosine": cosine_rates(12_000),
    "linear to zero": schedule_rates(4000, 3900),
    "later cooldown": schedule_rates(4000, 400, shapes.one_minus_sqrt),
}


@functools.cache
def fitted(truth):
    return laws.fit_loss_law([curve(TRUNK, law=truth), curve(BRANCH, law=truth)])


@pytest.mark.parametrize(
    "truth, tolerance",
    [
        (TRUTH, 0.003),
        (
            TRUTH._replace(speed=0.5, response_exponent=0.8, progress_exponent=0.8),
            0.003,
        ),
        (TRUTH._replace(speed=0.01, progress_exponent=0.25, floor=1.0), 0.02),
        (TRUTH._replace(rate_exponent=0.45, response_exponent=0.2), 0.012),
    ],
)
@pytest.mark.parametrize("other", OTHERS)
def test_trunk_and_one_branch_tell_the_other_schedules(other, truth, tolerance):
    law, rates = fitted(truth), OTHERS[other]
    expected = truth.predict(rates, len(rates))
    assert law.predict(rates, len(rates)) == pytest.approx(expected, abs=tolerance)


def test_residual_is_the_noise_of_the_curves():
    noise = 0.004
    law = laws.fit_loss_law(
        [curve(TRUNK, noise=noise), curve(BRANCH, noise=noise, seed=1)]
    )
    assert law.residual == pytest.approx(noise, rel=0.15)


def test_unit_of_the_rates_does_not_matter():
    curves = [curve(TRUNK, noise=0.002), curve(BRANCH, noise=0.002)]
    law = laws.fit_loss_law(curves)
    other = laws.fit_loss_law([(1000 * lr, steps, loss) for lr, steps, loss in curves])
    assert other.peak_value == 1000 * law.peak_value
    rates = OTHERS["cosine"]
    assert other.predict(1000 * rates, 4000) == pytest.approx(
        law.predict(rates, 4000), abs=1e-5
    )


laws_near_the_priors = st.builds(
    TRUTH._replace,
    progress=st.floats(0.1, 0.6),
    progress_exponent=st.floats(0.3, 0.6),
    gain=st.floats(0.08, 0.3),
    rate_exponent=st.floats(0.55, 0.9),
    speed=st.floats(0.08, 0.3),
    response_exponent=st.floats(0.18, 0.35),
)


@settings(max_examples=15, deadline=None)
@given(laws_near_the_priors, st.integers(0, 2**32 - 1))
def test_fabricated_curves_come_back_within_their_intervals(truth, seed):
    """Of 99.9 %, so that chance alone does not fail; noise and all."""
    known = [
        curve(TRUNK, law=truth, noise=0.002, seed=seed),
        curve(BRANCH, law=truth, noise=0.002, seed=seed + 1),
    ]
    law = laws.fit_loss_law(known)
    for rates in OTHERS.values():
        low, high = law.predict_interval(rates, len(rates), coverage=0.999)
        assert low < truth.predict(rates, len(rates)) < high


def test_an_interval_grows_with_its_coverage_its_distance_and_the_noise():
    def width(law, rates, coverage=0.9):
        low, high = law.predict_interval(rates, len(rates), coverage=coverage)
        middle = law.predict(rates, len(rates))
        assert (low + high) / 2 == pytest.approx(middle)
        return high - low

    quiet, noisy = (
        laws.fit_loss_law([curve(TRUNK, noise=n), curve(BRANCH, noise=n, seed=1)])
        for n in (0.0005, 0.005)
    )
    near, far = OTHERS["cosine"], OTHERS["longer cosine"]
    assert width(noisy, near) > 1.3 * width(quiet, near)
    assert width(quiet, far) > 1.2 * width(quiet, near)
    two, one = width(quiet, near, 0.9545), width(quiet, near, 0.6827)
    assert two == pytest.approx(2 * one, rel=1e-3)


def test_an_interval_holds_the_noise_and_the_error_of_the_law():
    """Without `spread` its width is a formula."""
    law, end = TRUTH._replace(residual=0.01), 2 * 4000
    rates = np.append(np.full(end - 1, PEAK), 0.1 * PEAK)
    low, high = law.predict_interval(rates, [end])
    left = law.progress * ((end - 0.9) / 4000) ** -law.progress_exponent
    error = 0.018 * left
    assert (high - low) / 2 == pytest.approx(
        [1.6449 * math.hypot(0.01, error)], rel=1e-4
    )


def averaged(part, gamma=6.94, first=2000):
    """The losses of a trunk's averages, with a part of the gain of its cooldowns."""
    steps = STEPS[STEPS >= first]
    stable = TRUTH.predict(TRUNK, steps)
    cooled = [
        TRUTH.predict(TRUNK[:n] * (1 - (np.arange(n) / n) ** (gamma + 1)), n)
        for n in steps
    ]
    return gamma, (TRUNK, steps, stable - part * (stable - np.array(cooled)))


@pytest.mark.parametrize("part", [0.9, 1.1])
@pytest.mark.parametrize("branches", [[], [BRANCH]])
def test_averages_stand_in_for_a_branch_or_help_it(part, branches):
    runs = [curve(rates) for rates in (TRUNK, *branches)]
    law = laws.fit_loss_law(runs, [averaged(part)])
    rates = OTHERS["later cooldown"]
    low, high = law.predict_interval(rates, 4000)
    assert low < TRUTH.predict(rates, 4000) < high
    gain = TRUTH.predict(TRUNK, 4000) - TRUTH.predict(rates, 4000)
    assert high - low < (0.5 if branches else 1.0) * gain


def test_an_average_is_refused_where_its_exponent_is_none():
    with pytest.raises(ValueError, match="gamma must be"):
        laws.fit_loss_law([TRUNK_CURVE], [(-1.0, TRUNK_CURVE)])


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90, math.nan])
def test_intervals_refuse_a_coverage_that_is_no_probability(coverage):
    with pytest.raises(ValueError, match="coverage must be"):
        TRUTH.predict_interval(TRUNK, 4000, coverage=coverage)


def test_a_law_that_was_written_as_json_is_the_same():
    law = laws.fit_loss_law([curve(TRUNK, noise=0.002), curve(BRANCH, noise=0.002)])
    read = laws.LossLaw(**json.loads(json.dumps(law._asdict())))
    rates = OTHERS["cosine"]
    for a, b in zip(
        law.predict_interval(rates, 4000),
        read.predict_interval(rates, 4000),
        strict=True,
    ):
        assert a == b


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32])
def test_rates_of_any_dtype_and_steps_of_a_table_are_taken(dtype):
    rates = (np.append(np.full(9, 4.0), 2.0)).astype(dtype)
    law = TRUTH._replace(peak_value=4.0)
    expected = law.predict(np.asarray(rates, np.float64), np.array([5, 10]))
    assert np.array_equal(law.predict(rates, np.array([5.0, 10.0])), expected)


TRUNK_CURVE, BRANCH_CURVE = curve(TRUNK), curve(BRANCH)
NAN_LOSS = np.where(STEPS == 750, math.nan, STEPS)


@pytest.mark.parametrize(
    "curves, match",
    [
        ([], "curves must be at least one"),
        ([TRUNK_CURVE], "Missing is a short cooldown branched off the stable run"),
        (
            [TRUNK_CURVE, curve(cosine_rates(4000))],
            "a slow fall, as of a cosine, .* got 0.18",
        ),
        (
            [curve(TRUNK, STEPS[:4]), curve(BRANCH, STEPS[:4])],
            "number of losses in curves must be at least 10, got 8",
        ),
        (
            [
                curve(TRUNK, np.arange(2100, 4001, 50)),
                curve(BRANCH, np.arange(2000, 2501)),
            ],
            "Missing is a longer stable run, logged from early on",
        ),
        # The branch is there, but nothing was logged in its cooldown.
        ([TRUNK_CURVE, curve(BRANCH, STEPS[:37])], "with losses logged in it"),
        ([TRUNK_CURVE[:2]], "curves must be"),
        (
            [(TRUNK[:1000], *TRUNK_CURVE[1:])],
            "steps must be whole numbers from 1 to the 1000",
        ),
        ([(TRUNK, STEPS + 0.5, STEPS)], "steps must be whole numbers"),
        ([(TRUNK, STEPS, STEPS[1:])], "losses must be of shape"),
        (
            [(TRUNK, STEPS, NAN_LOSS)],
            "losses must be finite numbers, got 'nan at step 750'",
        ),
        ([(-TRUNK, STEPS, STEPS)], "learning_rates must be"),
        ([({"lr": 1}, STEPS, STEPS)], "learning_rates must be an array"),
        ([(None, STEPS, STEPS)], "learning_rates must be an array"),
        ([(TRUNK, None, STEPS)], "steps must be whole numbers"),
        ([(TRUNK, STEPS, None)], "losses must be of shape"),
        ([{"lr": TRUNK, "step": STEPS, "loss": STEPS}], "curves must be"),
        (None, "curves must be at least one"),
        ({"trunk": TRUNK_CURVE}, "curves must be at least one"),
        (
            [
                (TRUNK, STEPS, 3 + STEPS / 1e4),
                (BRANCH, STEPS[:47], 3 + STEPS[:47] / 1e4),
            ],
            "losses that fall",
        ),
    ],
)
def test_fit_refuses_and_names_what_is_missing(curves, match):
    with pytest.raises(ValueError, match=match):
        laws.fit_loss_law(curves)


@pytest.mark.parametrize("steps", [0, 4001, 2.5, [1, -1], [], "2", None, True])
def test_predict_refuses(steps):
    with pytest.raises(
        ValueError, match="steps must be whole numbers from 1 to the 4000"
    ):
        TRUTH.predict(TRUNK, steps)


# The cooldown


LENGTHS = [1600, 100, 400, 800, 200]


def loss_after(law, start_step, length, shape=shapes.one_minus_sqrt, end_value=0.0):
    schedule = cooldown_schedule(
        PEAK, start_step, length, shape=shape, end_value=end_value
    )
    rates = np.asarray(schedule(np.arange(5000)))
    return law.predict(rates, start_step + length)


@pytest.mark.parametrize("shape", [shapes.linear, shapes.one_minus_sqrt])
def test_losses_of_cooldowns_from_now_are_those_of_their_schedules(shape):
    trunk = np.full(3000, PEAK)
    plan = laws.best_cooldown(TRUTH, trunk, LENGTHS, shape=shape, end_value=1e-4)
    assert plan.cooldown_steps.tolist() == sorted(LENGTHS)
    assert plan.total_steps.tolist() == [3000 + n for n in sorted(LENGTHS)]
    for length, loss in zip(plan.cooldown_steps, plan.losses, strict=True):
        expected = loss_after(TRUTH, 3000, int(length), shape, 1e-4)
        assert loss == pytest.approx(expected, abs=1e-5)


def test_cooldown_of_a_fixed_budget_is_the_best_of_all_splits():
    plan = laws.best_cooldown(TRUTH, np.full(500, PEAK), LENGTHS, total_steps=4000)
    losses = {n: float(loss_after(TRUTH, 4000 - n, n)) for n in sorted(LENGTHS)}
    assert plan.total_steps.tolist() == [4000] * len(LENGTHS)
    assert plan.losses == pytest.approx(list(losses.values()), abs=1e-5)
    assert plan.best == min(losses, key=losses.__getitem__)


def test_cooldown_from_now_is_the_longest_that_no_later_start_beats():
    plan = laws.best_cooldown(TRUTH, np.full(3000, PEAK), LENGTHS)
    for length, total in zip(plan.cooldown_steps, plan.total_steps, strict=True):
        shorter = [n for n in LENGTHS if n <= length]
        best = laws.best_cooldown(
            TRUTH, np.full(3000, PEAK), shorter, total_steps=int(total)
        ).best
        if length == plan.best:
            assert best == length
        elif length > plan.best:
            assert best < length


def test_cooldown_is_long_when_progress_is_over_and_short_when_it_is_all():
    trunk = np.full(3000, PEAK)
    over = TRUTH._replace(progress=0.0)
    useless = TRUTH._replace(gain=0.0)
    assert laws.best_cooldown(over, trunk, LENGTHS).best == max(LENGTHS)
    assert laws.best_cooldown(useless, trunk, LENGTHS).best == min(LENGTHS)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"cooldown_steps": []}, "cooldown_steps must be not empty"),
        ({"cooldown_steps": [0]}, "cooldown_steps must be a whole number from 1"),
        ({"total_steps": 1500}, "total_steps must be at least 1000 steps done"),
        ({"total_steps": 1e4}, "total_steps must be a whole number"),
        ({"shape": "linear"}, "shape must be a function"),
        ({"end_value": -1.0}, "end_value must be"),
        (
            {"end_value": 2 * PEAK},
            "end_value must be a finite number >= 0 and <= 0.002",
        ),
        ({"learning_rates": [math.inf]}, "learning_rates must be"),
        ({"learning_rates": [PEAK, 0.0]}, "the last of learning_rates must be above 0"),
    ],
)
def test_best_cooldown_refuses(change, match):
    arguments = {"learning_rates": np.full(1000, PEAK), "cooldown_steps": [600]}
    with pytest.raises(ValueError, match=match):
        laws.best_cooldown(TRUTH, **(arguments | change))


# Figures of the benchmark


@functools.cache
def small_cases():
    """Of the one group; those after it are not made."""
    for name, cases in itertools.groupby(
        benchmark.small(benchmark.RUNS), lambda case: case.group
    ):
        if name == "400k, seed 0, 0.004":
            return list(cases)


@pytest.mark.parametrize(
    "cases, mean, worst, data",
    [
        (lambda data: small_cases(), 12.5, 25.8, None),
        (lambda data: benchmark.published(data / "runs_124M.jsonl"), 3.3, 16.9, "runs"),
        (lambda data: benchmark.curves_of(data / "25M"), 3.2, 14.5, "curves"),
        (lambda data: benchmark.curves_of(data / "100M"), 5.6, 18.5, "curves"),
    ],
    ids=["400k", "124M", "25M", "100M"],
)
def test_errors_of_the_benchmark_are_those_of_its_table(cases, mean, worst, data):
    """In thousandths of a nat, within 20 %; some data are not part of the project."""
    folder = os.environ.get(f"OPTAX_WSD_{data}".upper())
    if data and not folder:
        pytest.skip(f"OPTAX_WSD_{data.upper()} does not name the folder of the {data}")
    errors = []
    for case in cases(Path(folder or "")):
        try:
            errors.append(1e3 * abs(case.score()[0]))
        except ValueError:
            assert data == "runs"  # cooldowns too slow to tell
    assert np.mean(errors) < 1.2 * mean
    assert max(errors) < 1.2 * worst


def test_a_small_runs_interval_holds_most_of_its_cooldowns():
    error, _, width = np.array([case.score() for case in small_cases()]).T
    assert np.mean(np.abs(error) <= width) >= 0.7
    assert np.mean(width) < 0.036
