"""benchmarks.claims: shared steps change nothing, and verdicts follow the runs."""

import dataclasses
import json
import types
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_wsd
from benchmarks.claims import __main__ as command
from benchmarks.claims import engine, pictures, report, specs, verdicts
from benchmarks.claims.engine import Lab, NotMeasuredError
from benchmarks.claims.settings import CPU, SCALES, quick
from benchmarks.claims.study import CLAIMS, Grid, Study, best
from benchmarks.claims.verdicts import Interval, Verdict
from examples.gpt.config import DataConfig, ModelConfig
from optax_wsd.laws import LossLaw

TINY = dataclasses.replace(
    CPU,
    name="tiny",
    model=ModelConfig(width=8, depth=1, heads=1),
    data=DataConfig(sequence_length=8, batch_size=2, validation_sequences=128),
    steps=12,
    chunk=4,
    warmup_steps=2,
    snapshots=2,
    workers=1,
)
HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.FAILS, Verdict.OPEN


def wsd(cooldown, peak=0.01, total=12):
    spec = {"name": "wsd_schedule", "peak_value": peak, "total_steps": total}
    return {"schedule": spec | {"cooldown_steps": cooldown, "shape": "linear"}}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Trains runs of one seed, with states and results of this test's own."""
    monkeypatch.setattr(engine, "STATES", tmp_path / "states")

    def losses(asked):
        study = Study(Lab(TINY, tmp_path / "runs.jsonl"), range(1))
        with pytest.raises(NotMeasuredError):
            study.losses(asked)
        study.lab.train()
        return study.losses(asked)

    return losses


def test_a_branch_equals_the_run_from_its_first_step(tiny, tmp_path):
    tiny({"stable": wsd(0)})
    branched = tiny({"cooled": wsd(4)})["cooled"]
    for path in (tmp_path / "states").rglob("*.pickle"):
        path.unlink()
    (tmp_path / "runs.jsonl").unlink()
    np.testing.assert_array_equal(branched, tiny({"cooled": wsd(4)})["cooled"])


def test_a_finished_run_is_read_and_a_missing_one_is_not_measured(tiny, tmp_path):
    loss = tiny({0: wsd(0)})[0]
    assert loss[0, 0] != loss[0, 1], "tuned and reported on the same text"
    study = Study(Lab(TINY, tmp_path / "runs.jsonl"), range(1))
    np.testing.assert_array_equal(study.losses({0: wsd(0)})[0], loss)
    with pytest.raises(NotMeasuredError):
        study.losses({0: wsd(0), 1: wsd(0, 0.02)})
    assert [run.schedule["peak_value"] for run in study.lab.wanted] == [0.02]


def test_runs_of_another_model_are_not_mixed(tiny, tmp_path):
    tiny({0: wsd(0)})
    results = tmp_path / "runs.jsonl"
    results.write_text(results.read_text().replace('"origin": "', '"origin": "other'))
    with pytest.raises(ValueError, match="another text or model"):
        tiny({1: wsd(0, 0.02)})


def test_averages_and_ends_of_one_trajectory(tiny):
    """All in one pass; the last snapshot is the last step, the middle one step 8."""
    line = {"name": "line", "start_step": 8}
    losses = tiny(
        {
            "end": wsd(4),
            "at end": wsd(4) | {"average": line | {"share": 1.0}},
            "at start": wsd(4) | {"average": line | {"share": 0.0}},
            "start": wsd(0) | {"steps": 8},
            "swa": wsd(0) | {"average": {"name": "swa", "start_step": 8}},
            "lawa": wsd(0) | {"average": {"name": "lawa", "size": 2, "every": 2}},
        }
    )
    np.testing.assert_allclose(losses["end"], losses["at end"], atol=2e-5)
    np.testing.assert_allclose(losses["start"], losses["at start"], atol=2e-5)
    np.testing.assert_array_equal(losses["swa"], losses["lawa"])
    assert not np.array_equal(losses["swa"], losses["end"])


@pytest.mark.parametrize(
    ("spec", "average"),
    [
        ({"name": "ema", "decay": 0.9**0.2}, optax_wsd.params_ema(0.9, every=5)),
        ({"name": "power_ema", "gamma": 3.0}, optax_wsd.params_power_ema(3.0, every=5)),
        (
            {"name": "swa", "start_step": 40},
            optax_wsd.params_swa(every=5, start_step=40),
        ),
        (
            {"name": "lawa", "size": 4, "every": 10},
            optax_wsd.params_lawa(4, every=10),
        ),
    ],
)
def test_averages_over_snapshots_are_those_of_the_library(spec, average):
    path = jnp.sin(jnp.arange(100.0))

    def update(state, value):
        return average.update(jnp.zeros_like(value), state, value)[1], None

    state, _ = jax.lax.scan(update, average.init(path[0]), path)
    weights = specs.snapshot_weights(spec, 100, 5)
    assert np.sum(weights) == pytest.approx(1)
    expected: Any = optax_wsd.eval_params(state, path[-1])
    np.testing.assert_allclose(weights @ path[4::5], expected, atol=2e-5)


# Verdicts.


def test_an_interval_is_students():
    values = np.array([0.01, 0.02, 0.06])
    found = verdicts.interval(values)
    assert found.mean == pytest.approx(0.03)
    assert found.error == pytest.approx(4.302653 * 0.0264575 / 3**0.5, rel=1e-5)
    paired = verdicts.difference(values + [1, 2, 3], np.array([1, 2, 3]))
    assert (paired.mean, paired.error) == pytest.approx((found.mean, found.error))
    assert verdicts.interval(values[:1]).error == np.inf


@pytest.mark.parametrize(
    ("mean", "error", "at_most", "at_least", "within"),
    [
        # at most 0.01; at least 0.01; within 0.01
        (0.0, 0.009, HOLDS, FAILS, HOLDS),
        (0.0, 0.011, OPEN, OPEN, OPEN),
        (0.02, 0.009, FAILS, HOLDS, FAILS),
        (0.02, 0.011, OPEN, OPEN, OPEN),
        (-0.02, 0.009, HOLDS, FAILS, FAILS),
        (-0.02, 0.011, HOLDS, FAILS, OPEN),
        (0.0, np.inf, OPEN, OPEN, OPEN),
    ],
)
def test_a_verdict_is_of_the_whole_interval(mean, error, at_most, at_least, within):
    value = Interval(mean, error)
    assert verdicts.at_most(value, 0.01) is at_most
    assert verdicts.at_least(value, 0.01) is at_least
    assert verdicts.within(value, 0.01) is within


def test_one_part_that_fails_is_enough_and_one_that_is_open_leaves_it_open():
    assert verdicts.every([HOLDS, HOLDS]) is HOLDS
    assert verdicts.every([HOLDS, OPEN]) is OPEN
    assert verdicts.every([OPEN, FAILS, HOLDS]) is FAILS


def test_a_power_law_is_followed_beyond_its_end():
    steps = np.array([300, 600, 900, 1200])
    exponent, beyond = verdicts.power_law(steps, 1.5 + 9 * steps**-0.5)
    assert exponent == pytest.approx(0.5)
    assert beyond == pytest.approx(1.5 + 9 * 2400**-0.5)


# Tuning.


def test_settings_are_chosen_on_one_text_and_reported_on_another():
    losses = {1.0: [[3, 1], [3, 1]], 2.0: [[2, 5], [2, 7]], 4.0: [[4, 0], [4, 0]]}
    grid = Grid({peak: np.array(value, float) for peak, value in losses.items()})
    other = Grid({1.0: np.array([[2.5, 0.0]] * 2)})
    assert (grid.best, grid.at_edge, len(grid)) == (2.0, False, 3)
    np.testing.assert_array_equal(grid.loss, [5, 7])
    assert best([other, grid]) is grid
    assert Grid({k: -v for k, v in grid.losses.items()}).at_edge


def test_the_optimum_of_every_seed_is_the_bottom_of_its_parabola():
    bottoms = np.array([2.5e-3, 3.5e-3])
    peaks = (1e-3, 2e-3, 4e-3, 8e-3)
    losses = {p: (np.log(p / bottoms) ** 2)[:, None] * [1, 9] for p in peaks}
    np.testing.assert_allclose(np.exp(Grid(losses).optima()), bottoms)


def lab_of(loss, scale=CPU):
    """A lab whose losses are a function of the run, at (tune, report)."""

    def losses(runs):
        lab.asked += runs
        return [(loss(run), loss(run)) for run in runs]

    lab: Any = types.SimpleNamespace(losses=losses, scale=scale, asked=[])
    return lab


def test_a_grid_is_widened_until_its_best_is_inside():
    def grids(bottom):
        lab = lab_of(lambda run: abs(np.log2(run.schedule["peak_value"] / bottom)))
        return Study(lab, range(2)).tune({"x": lambda p: wsd(0, p)}, (-1, 0, 1))["x"]

    assert len(grids(CPU.rung(0))) == 3
    assert (grids(CPU.rung(3)).best, len(grids(CPU.rung(3)))) == (CPU.rung(3), 6)
    assert (grids(CPU.rung(-3)).best, len(grids(CPU.rung(-3)))) == (CPU.rung(-3), 6)
    assert grids(CPU.rung(20)).at_edge


# Worlds: a loss by (name of the schedule, cooldown or end, shape, average, steps). In
# each the peak's best is named, and the verdicts that follow.


def world(effect, best_rung=lambda run: 0.0, seeds=3, level=2.0):
    def loss(run):
        spec = run.schedule
        while "peak_value" not in spec:  # a schedule made of others
            spec = spec.get("schedule") or spec["schedules"][0]
        peak = spec["peak_value"]
        off = 2 * np.log2(peak / CPU.peak) - best_rung(run)
        # A little luck of the seed, another for each run, and the peak's parabola.
        luck = 1e-4 * np.sin(zlib.crc32(run.key.encode()))
        return level + 0.1 * run.seed + 0.02 * off**2 + luck + effect(run)

    return lambda number: CLAIMS[number].test(Study(lab_of(loss), range(seeds)))


def cooldown_of(run):
    """The part of the run that is a cooldown; cosine and the others have none."""
    return run.schedule.get("cooldown_steps", 0) / run.schedule.get("total_steps", 1)


def is_cosine(run):
    return "cosine" in run.schedule["name"]


def to_zero(run):
    return is_cosine(run) and run.schedule["end_value"] == 0


def free(run, C=None, **numbers):  # noqa: N803
    """Whether it is a schedule-free run with that C and other numbers."""
    has = run.optimizer
    is_free = has["name"].startswith("schedule_free")
    alike = is_free and (C is None or has.get("decoupling") == C)
    return alike and all(has.get(k) == v for k, v in numbers.items())


def decay_off(run, end, length):
    """How far its length is from its end, but for one that is better so."""
    at, decay = run.steps, run.schedule["decay_steps"]
    return abs(np.log2(decay / at)) - 2 * ((at, decay) == (end, length))


def to_zero_is_far(run):
    return 4 if to_zero(run) else 0 if cooldown_of(run) else -4


LAW = LossLaw(1.2, 0.4, 0.5, 0.12, 0.7, 0.1, 0.3, CPU.peak, 1200.0)


def law_of(run):
    return float(LAW.predict(run.rates, run.steps))


def continual(run):
    """Lower on the new text in the cooldown, and on the old one if infinite."""
    if run.text == "jax":
        return -0.02 * (run.schedule["name"] == "cooldown_schedule")
    in_cooldown = run.steps == 1200 and run.mixture[2] == 960
    return -0.02 * (in_cooldown and "end_value" not in run.schedule)


WORLDS = [
    # Claim 2: matches cosine to 10 %, matches cosine to zero.
    (2, lambda r: 0.004 * (cooldown_of(r) == 0.2), {}, ["holds", "holds"]),
    (2, lambda r: 0.01 * is_cosine(r), {}, ["holds", "holds"]),
    (2, lambda r: -0.01 * is_cosine(r), {}, ["does not hold", "does not hold"]),
    (2, lambda r: -0.01 * to_zero(r), {}, ["holds", "does not hold"]),
    (
        2,
        lambda r: 0.02 * (r.seed - 1) * is_cosine(r),
        {},
        ["not decided", "not decided"],
    ),
    (2, lambda r: 0.02 * (cooldown_of(r) == 0.2), {}, ["does not hold"] * 2),
    # Claim 3: constant < WSD 20 % < cosine to zero, and a half.
    (
        3,
        lambda r: 0.0,
        {"best_rung": lambda r: 1 if to_zero(r) else 0 if cooldown_of(r) else -1},
        ["holds", "holds", "holds"],
    ),
    (
        3,
        lambda r: 0.0,
        {"best_rung": lambda r: 0 if to_zero(r) else 1 if cooldown_of(r) else -2},
        ["holds", "does not hold", "holds"],
    ),
    (
        3,
        lambda r: 0.0,
        {"best_rung": lambda r: 1 if to_zero(r) else -2 if cooldown_of(r) else 0},
        ["does not hold", "holds", "does not hold"],
    ),
    # Claim 4: 1 - sqrt beats linear, more so at high peaks.
    (
        4,
        lambda r: (
            -(0.01 + r.schedule["peak_value"])
            * (r.schedule["shape"] == "one_minus_sqrt")
        ),
        {},
        ["holds", "holds"],
    ),
    (
        4,
        lambda r: (
            -(0.01 + r.schedule["peak_value"]) * (r.schedule["shape"] == "linear")
        ),
        {},
        ["does not hold", "does not hold"],
    ),
    # Claim 5: levels off at 20 %, 10 % is enough, 2.5 % is not.
    (5, lambda r: 0.02 * (cooldown_of(r) < 0.1), {}, ["holds", "holds", "holds"]),
    (
        5,
        lambda r: -0.1 * cooldown_of(r),
        {},
        ["does not hold", "does not hold", "holds"],
    ),
    (5, lambda r: 0.0, {}, ["holds", "holds", "does not hold"]),
    # Claim 6: what 5 % costs falls with the length; it matches cosine in the end.
    (
        6,
        lambda r: 0.05 * (cooldown_of(r) == 0.05) * (600 / r.steps - 0.25),
        {},
        ["holds", "holds"],
    ),
    (
        6,
        lambda r: 0.05 * (cooldown_of(r) == 0.05) * r.steps / 600,
        {},
        ["does not hold", "does not hold"],
    ),
    # Claim 7: an average recovers three quarters; it adds nothing after a cooldown.
    (
        7,
        lambda r: 0.1 if not (cooldown_of(r) or r.average) else 0.01 * bool(r.average),
        {},
        ["holds", "does not hold"],
    ),
    (
        7,
        lambda r: 0.1 * (not cooldown_of(r)) - 0.05 * bool(r.average),
        {},
        ["does not hold", "does not hold"],
    ),
    (
        7,
        lambda r: 0.0 if cooldown_of(r) else 0.02 if r.average else 0.1,
        {},
        ["holds", "holds"],
    ),
    # Claim 8: a merge equals the decay, over 10, 20 and 40 %.
    (8, lambda r: 0.0, {}, ["holds"] * 3),
    (
        8,
        lambda r: 0.02 * (r.average or {"size": 0})["size"] / 8,
        {},
        ["does not hold"] * 3,
    ),
    # Claim 1: cosines of another length are worse.
    (
        1,
        lambda r: 0.02 * abs(np.log2(r.schedule["decay_steps"] / r.steps)),
        {},
        ["holds", "holds"],
    ),
    (
        1,
        lambda r: 0.02 * np.log2(r.schedule["decay_steps"] / r.steps),
        {},
        ["holds", "does not hold"],
    ),
    # Claim 15: better than a constant run, matches WSD, one setting for all lengths.
    (
        15,
        lambda r: 0.02 * (r.schedule["name"] == "wsd_schedule" and not cooldown_of(r)),
        {},
        ["holds", "holds", "holds"],
    ),
    (
        15,
        lambda r: 0.02 * ("power" in r.schedule["name"]),
        {
            "best_rung": lambda r: (
                np.log2(r.steps / 1200) * ("power" in r.schedule["name"])
            )
        },
        ["does not hold", "does not hold", "does not hold"],
    ),
    (
        15,
        lambda r: -0.02 * bool(r.average and r.schedule["name"] == "wsd_schedule"),
        {},
        ["does not hold", "holds", "holds"],
    ),
    (
        15,
        lambda r: (
            0
            if r.schedule["name"] != "wsd_schedule"
            else -0.02
            if cooldown_of(r)
            else 0.02
        ),
        {},
        ["holds", "does not hold", "holds"],
    ),
    # Claim 9: matches AdamW, is sensitive to b1, C cures that, a growing b1 does, a
    # cooldown adds nothing.
    (9, lambda r: 0.05 * (free(r, b1=0.8) and not free(r, C=50)), {}, ["holds"] * 5),
    (
        9,
        lambda r: (
            0.02 * free(r, growing_b1=20)
            - 0.04 * (free(r) and cooldown_of(r) > 0)
            + 0.05 * free(r, b1=0.8, C=50)
        ),
        {},
        ["does not hold"] * 5,
    ),
    (
        9,
        lambda r: (
            0.02 * (free(r, growing_b1=20) and r.steps == 2400)
            + 0.05 * (free(r, b1=0.95) and r.steps != 600)
            + 0.03 * free(r, b1=0.9, C=50)
        ),
        {},
        ["does not hold"] * 4 + ["holds"],
    ),
    (
        9,
        lambda r: -0.02 * (not free(r) and r.schedule["shape"] == "linear"),
        {},
        ["does not hold", "does not hold", "holds", "holds", "holds"],
    ),
    # Claim 16: a growing b1 is as good as the best constant, longer, wider, with Muon.
    (16, lambda r: 0.02 * free(r, b1=0.9), {}, ["holds"] * 3),
    (
        16,
        lambda r: 0.02 * (free(r, growing_b1=20) and r.steps > 1200),
        {},
        ["does not hold", "holds", "holds"],
    ),
    (
        16,
        lambda r: 0.02 * (free(r, growing_b1=20) and r.width is not None),
        {},
        ["holds", "does not hold", "holds"],
    ),
    (
        16,
        lambda r: 0.02 * free(r, name="schedule_free_muon", growing_b1=20),
        {},
        ["holds", "holds", "does not hold"],
    ),
    # Claim 10: half the compute, no worse at any budget, the curves end together.
    (10, lambda r: 0.0, {}, ["holds", "holds", "holds"]),
    (10, lambda r: -0.02 * is_cosine(r), {}, ["holds"] + ["does not hold"] * 2),
    # Claim 11: multi-step ties, WSD-S is no worse, the peak of WSqD stays.
    (11, lambda r: 0.0, {}, ["holds", "holds", "holds"]),
    (
        11,
        lambda r: (
            0.02 * (r.schedule["name"] in ("multistep_schedule", "wsds_schedule"))
        ),
        {
            "best_rung": lambda r: (
                2
                * np.log2(r.steps / 1200)
                * (r.schedule["name"] == "cooldown_schedule")
            )
        },
        ["does not hold", "does not hold", "does not hold"],
    ),
    # Claim 12: falls all the way, rises beyond the end.
    (
        12,
        lambda r: 0.1 * abs((r.average or {"share": 1})["share"] - 1),
        {},
        ["holds"] * 2,
    ),
    (
        12,
        lambda r: 0.1 * (r.average or {"share": 1})["share"],
        {},
        ["does not hold", "holds"],
    ),
    (
        12,
        lambda r: -0.1 * (r.average or {"share": 1})["share"],
        {},
        ["holds", "does not hold"],
    ),
    # What is said of several lengths fails where one of them, the last, does.
    (1, lambda r: 0.02 * decay_off(r, 1200, 2400), {}, ["does not hold", "holds"]),
    (1, lambda r: 0.02 * decay_off(r, 2400, 1200), {}, ["holds", "does not hold"]),
    (3, lambda r: 0.0, {"best_rung": to_zero_is_far}, ["holds", "holds", FAILS.value]),
    (
        5,
        lambda r: -0.02 * (cooldown_of(r) == 0.6),
        {},
        ["does not hold", "holds", "does not hold"],
    ),
    (
        9,
        lambda r: 0.05 * (free(r, b1=0.8) and not free(r, C=50) and r.steps != 2400),
        {},
        ["holds", "does not hold", "holds", "holds", "holds"],
    ),
    (
        10,
        lambda r: 0.02 * (r.steps == 1200 and cooldown_of(r) > 0 and r.width is None),
        {},
        ["holds", "does not hold", "does not hold"],
    ),
    (
        10,
        lambda r: -0.05 * (r.schedule["name"] == "wsd_schedule"),
        {},
        ["holds", "holds", "does not hold"],
    ),
    (
        11,
        lambda r: 0.02 * (r.schedule["name"] == "wsds_schedule" and r.steps == 2400),
        {
            "best_rung": lambda r: (
                -2
                * np.log2(r.steps / 1200)
                * (r.schedule["name"] == "cooldown_schedule")
            )
        },
        ["holds", "does not hold", "does not hold"],
    ),
    (
        12,
        lambda r: 0.1 * abs((r.average or {"share": 1})["share"] - 0.6),
        {},
        ["does not hold", "holds"],
    ),
    (
        13,
        lambda r: continual(r) - 0.04 * (r.text == "other" and r.mixture[2] == 240),
        {},
        ["does not hold", "holds"],
    ),
    (
        15,
        lambda r: (
            0.02 * (r.schedule["name"] != "wsd_schedule" and r.steps == 2400)
            + 0.02 * (r.schedule["name"] == "wsd_schedule" and r.steps != 2400)
        ),
        {},
        ["does not hold", "does not hold", "holds"],
    ),
    (
        15,
        lambda r: 0.02 * (r.schedule["name"] == "wsd_schedule" and not cooldown_of(r)),
        {
            "best_rung": lambda r: (
                (r.steps == 2400) * ("power" in r.schedule["name"]) * 2
            )
        },
        ["holds", "holds", "does not hold"],
    ),
    (
        6,
        lambda r: 0.05 * (cooldown_of(r) == 0.4) * r.steps / 600,
        {},
        ["holds", "holds"],
    ),
    (
        15,
        lambda r: (
            0.02 * (r.schedule["name"] == "wsd_schedule" and not cooldown_of(r))
            + (0.02 if r.steps == 2400 else -0.03)
            * bool(r.average and r.average["gamma"] != 4)
        ),
        {},
        ["holds", "holds", "does not hold"],
    ),
    # Claim 14: a law predicts all others, or one of them, the last, badly.
    (14, lambda r: law_of(r), {"level": 0}, ["holds"]),
    (
        14,
        lambda r: law_of(r) + 0.03 * (r.schedule["name"] == "multistep_schedule"),
        {"level": 0},
        ["does not hold"],
    ),
    (14, lambda r: law_of(r) - 0.03 * to_zero(r), {"level": 0}, ["does not hold"]),
    # Claim 13: the new text is learned best in the cooldown; infinite forgets less.
    (13, lambda r: continual(r), {}, ["holds", "holds"]),
    (13, lambda r: -continual(r), {}, ["does not hold", "does not hold"]),
]


@pytest.mark.parametrize(("number", "effect", "options", "expected"), WORLDS)
def test_verdicts_follow_from_made_up_losses(number, effect, options, expected):
    parts = world(effect, **options)(number).parts
    assert [said.value for said in parts.values()] == expected


def average_is(run, name):
    return bool(run.average) and run.average["name"] == name


# The figures beside the verdicts: (claim, effect, how a figure begins and what it is).
FIGURES = [
    (2, lambda r: 0.01 * to_zero(r), {"linear to zero − cosine to zero": -0.01}),
    (4, lambda r: 0.0, {"1 − √p − linear at 0.008, the best for both": 0.0}),
    (
        7,
        lambda r: 0.01 * bool(r.average) * (1 - 2 * (cooldown_of(r) > 0)),
        {
            "best average − best cooldown": 0.01,
            "best average after 20 %": -0.01,
        },
    ),
    (
        7,
        lambda r: 0.1 * (cooldown_of(r) == 0) - 0.05 * average_is(r, "ema"),
        {"EMA": 50, "SWA": 0},
    ),
    (
        7,
        lambda r: -0.01 * (average_is(r, "ema") and cooldown_of(r) > 0),
        {"best average after 20 %": -0.01},
    ),
    (
        8,
        lambda r: 0.01 * average_is(r, "merge"),
        {"linear over 20 %": 0.01, "cosine over 40 %": 0.01},
    ),
    (
        16,
        lambda r: 0.03 * free(r, b1=0.8) - 0.01 * free(r, growing_b1=20),
        {"worst − best constant b1, width 112": 0.03},
    ),
    (
        9,
        lambda r: 0.01 * free(r, growing_b1=10) - 0.01 * free(r, b2=0.999),
        {"growing b1 with offset 10": 0.01, "growing b1 with b2 0.999": -0.01},
    ),
]


@pytest.mark.parametrize(("number", "effect", "expected"), FIGURES)
def test_figures_follow_from_made_up_losses(number, effect, expected):
    figures = world(effect)(number).figures
    for begin, value in expected.items():
        (figure,) = (f for f in figures if f.startswith(begin + " "))
        measured = float(figure[len(begin) :].split()[0].replace("−", "-"))
        assert measured == pytest.approx(value, abs=1e-3 if abs(value) < 1 else 1)


@pytest.mark.parametrize("number", sorted(CLAIMS))
@pytest.mark.parametrize("scale", [*SCALES.values(), quick(CPU)], ids=lambda s: s.name)
def test_every_claim_answers_and_its_runs_are_of_whole_chunks(number, scale, tmp_path):
    def loss(run):
        # It falls in training and in a cooldown, with luck that hangs on the run alone.
        spec = run.schedule
        cooled = spec.get("cooldown_steps", 0) - spec.get("total_steps", 0) + run.steps
        luck = zlib.crc32(run.key.encode()) / 2**42
        return 2 + 50 / run.steps - 1e-4 * max(0, cooled) + luck

    lab = lab_of(loss, scale)
    finding = CLAIMS[number].test(Study(lab, range(2)))
    assert finding.parts and finding.figures
    assert lab.asked and all(run.steps % scale.chunk == 0 for run in lab.asked)
    assert all(run.weights is None or run.weights[-1] >= 0 for run in lab.asked)
    if finding.draw and scale is CPU:
        path = tmp_path / "picture.png"
        pictures.draw(finding.found, finding.draw, path)
        assert path.stat().st_size > 10_000


# Pages.


@pytest.fixture(scope="module")
def found():
    return report.find_all(Lab(CPU, report.results(CPU)))


def test_the_command_prints_the_committed_page(found, monkeypatch, capsys):
    monkeypatch.setattr(report, "find_all", lambda lab: found)
    command.main(command.Arguments(list=True))
    printed = capsys.readouterr().out.removesuffix("\n")
    committed = report.marked(report.HERE / "README.md", "claims cpu")
    assert committed == printed


@pytest.mark.parametrize("page", ["README.md", "docs/choose.md"])
def test_which_method_when_is_what_the_runs_say(page, found):
    table = report.marked(report.HERE.parent / page, "choices")
    assert table == report.choices(CPU, found)


def test_published_verdicts_are_of_the_claims_own_sentences():
    lab = lab_of(lambda run: 2 + run.steps**-0.5)
    for number, entry in json.loads(report.PUBLISHED.read_text()).items():
        parts = CLAIMS[int(number)].test(Study(lab, range(2))).parts
        assert set(entry["parts"]) <= set(parts)


def test_a_claim_says_which_size_to_trust_where_they_are_at_odds(found):
    for number, entry in json.loads(report.PUBLISHED.read_text()).items():
        if measured := found[int(number)]:
            parts = {k: said.value for k, said in measured[1].parts.items()}
            odds = [{said, parts[k]} for k, said in entry["parts"].items()]
            is_at_odds = {HOLDS.value, FAILS.value} in odds
            assert is_at_odds == bool(CLAIMS[int(number)].trust), number
