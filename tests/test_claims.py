"""benchmarks.claims: shared steps change nothing, and every claim has an answer."""

import dataclasses
import types
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_wsd
from benchmarks.claims import engine, report, specs
from benchmarks.claims.claims import CLAIMS
from benchmarks.claims.engine import Lab, NotMeasuredError, Plan
from benchmarks.claims.settings import CPU, SCALES, quick
from benchmarks.claims.study import Study, optimum
from examples.gpt.config import DataConfig, ModelConfig

TINY = dataclasses.replace(
    CPU,
    name="tiny",
    model=ModelConfig(width=8, depth=1, heads=1),
    data=DataConfig(sequence_length=8, batch_size=2, validation_sequences=64),
    steps=12,
    chunk=4,
    warmup_steps=2,
    snapshots=2,
    workers=1,
)


SCHEDULES = Study(Plan(), TINY, range(1))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Trains runs of one seed, with states and results of this test's own."""
    monkeypatch.setattr(engine, "STATES", tmp_path / "states")

    def losses(asked):
        plan, lab = Plan(), Lab(TINY, tmp_path / "runs.jsonl")
        with pytest.raises(NotMeasuredError):
            Study(plan, TINY, range(1)).losses(asked)
        lab.train(plan.runs)
        return Study(lab, TINY, range(1)).losses(asked)

    return losses


def test_a_branch_equals_the_run_from_its_first_step(tiny, tmp_path):
    cooled = {"schedule": SCHEDULES.wsd(0.01, 12, 4)}
    tiny({"stable": {"schedule": SCHEDULES.stable(0.01)}})
    branched = tiny({"cooled": cooled})["cooled"]
    for path in (tmp_path / "states").rglob("*.pickle"):
        path.unlink()
    (tmp_path / "runs.jsonl").unlink()
    np.testing.assert_array_equal(branched, tiny({"cooled": cooled})["cooled"])


def test_a_finished_run_is_read_and_a_missing_one_is_not_measured(tiny, tmp_path):
    first, second = ({"schedule": SCHEDULES.stable(peak)} for peak in (0.01, 0.02))
    loss = tiny({0: first})[0]
    study = Study(Lab(TINY, tmp_path / "runs.jsonl"), TINY, range(1))
    np.testing.assert_array_equal(study.losses({0: first})[0], loss)
    with pytest.raises(NotMeasuredError):
        study.losses({0: first, 1: second})


def test_runs_of_another_model_are_not_mixed(tiny, tmp_path):
    asked = {0: {"schedule": SCHEDULES.stable(0.01)}}
    tiny(asked)
    results = tmp_path / "runs.jsonl"
    results.write_text(results.read_text().replace('"origin": "', '"origin": "other'))
    with pytest.raises(ValueError, match="another text or model"):
        tiny(asked)


def test_a_line_ends_in_the_run_and_starts_where_it_branched(tiny):
    cooled = {"schedule": SCHEDULES.wsd(0.01, 12, 4)}
    losses = tiny(
        {
            "end": cooled,
            "at end": cooled | {"line": (8, 1.0)},
            "at start": cooled | {"line": (8, 0.0)},
            "start": {"schedule": SCHEDULES.stable(0.01), "steps": 8},
        }
    )
    np.testing.assert_allclose(losses["end"], losses["at end"], rtol=1e-6)
    np.testing.assert_array_equal(losses["start"], losses["at start"])


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


def test_the_optimum_of_a_parabola_is_exact_and_an_end_stays_an_end():
    peaks = (1e-3, 2e-3, 4e-3, 8e-3)
    losses = np.log(np.array(peaks) / 3e-3) ** 2 + 2
    assert optimum(peaks, losses) == pytest.approx((3e-3, 2.0))
    assert optimum(peaks, np.arange(4.0)) == (1e-3, 0.0)


@pytest.mark.parametrize("number", sorted(CLAIMS))
@pytest.mark.parametrize("scale", [*SCALES.values(), quick(CPU)], ids=lambda s: s.name)
def test_every_claim_answers_and_its_runs_are_of_whole_chunks(number, scale, tmp_path):
    asked = []

    def losses(runs):
        # A loss that falls in training, with luck that hangs on the run alone.
        asked.extend(runs)
        return [
            2 + 50 / run.steps + zlib.crc32(run.key.encode()) / 2**38 for run in runs
        ]

    lab: Any = types.SimpleNamespace(losses=losses)
    finding = CLAIMS[number].test(Study(lab, scale, range(2)))
    assert finding.ours and finding.verdict
    assert asked and all(run.steps % scale.chunk == 0 for run in asked)
    if finding.draw and scale is CPU:
        path = tmp_path / "picture.png"
        report.draw(CLAIMS[number], finding.draw, path)
        assert path.stat().st_size > 10_000
