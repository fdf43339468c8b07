"""Every one-topic example runs, and shows what it says."""

import importlib

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("averaging_optax", 8),
        ("averaging_nnx", 3),
        ("schedule_free", 8),
        ("batch_norm", 3),
    ],
)
def test_example_runs(name, steps, capsys):
    losses = importlib.import_module(f"examples.{name}").main(steps=steps)
    assert len(losses) >= 2
    assert np.all(np.isfinite(list(losses.values())))
    assert next(iter(losses)) in capsys.readouterr().out


def test_averages_are_better_than_the_raw_weights():
    losses = importlib.import_module("examples.averaging_optax").main(steps=400)
    assert max(losses["ema"], losses["mean"]) < 0.5 * losses["raw"]


def test_schedule_free_ends_without_a_decay():
    losses = importlib.import_module("examples.schedule_free").main(steps=400)
    assert losses["x"] < 0.01  # 0.34 at the start
