"""A GPT run of a second, for the tests of the example."""

import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from examples.gpt.__main__ import main
from examples.gpt.checkpoints import Checkpoints
from examples.gpt.config import (
    Config,
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
)
from examples.gpt.data import load_text
from examples.gpt.processes import Signals
from examples.gpt.train import run_to_end
from examples.gpt.trainer import make_trainer

STEPS = 12
TINY = (
    "--width 16 --depth 1 --heads 1 --sequence-length 8 --batch-size 8 --peak 0.01 "
    "--validation-sequences 16 --warmup-steps 3 --eval-every 4 --save-every 4 "
    "--snapshot-every 4 --log-every 4 --devices 1"
).split()


def write_text(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(40):
        lines = (f"file {i}, line {j}: {i * j}\n" for j in range(10))
        (folder / f"{i}.txt").write_text("".join(lines))
    return folder


def tiny_config(text: Path, steps: int = STEPS, **optimizer) -> Config:
    options = {"peak": 0.01, "warmup_steps": 3} | optimizer
    return Config(
        steps=steps,
        model=ModelConfig(width=16, depth=1, heads=1),
        data=DataConfig(text, 8, batch_size=8, validation_sequences=16),
        optimizer=OptimizerConfig(**options),
        loop=LoopConfig(
            eval_every=4, save_every=2, snapshot_every=4, log_every=4, devices=1
        ),
    )


def with_loop(config: Config, **changes) -> Config:
    return replace(config, loop=replace(config.loop, **changes))


def run(folder: Path, config: Config, branch_point=None, stop_at=None) -> dict:
    """Runs to the end, or as if Ctrl-C came at a step."""
    with mock.patch.object(Signals, "stop_at", lambda self, step: step == stop_at):
        return run_to_end(folder, config, load_text(config.data), branch_point)


def state_of(folder: Path, config: Config, step: int):
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.restore(step, make_trainer(config).abstract)


def assert_same(first, second) -> None:
    """Asserts that two states are equal bit for bit."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def check_refused(command, sentence, capsys) -> None:
    """Asserts that a command ends with exit code 2 and a sentence."""
    try:
        code = main(command)
    except SystemExit as exit:  # how the argument parser leaves
        code = exit.code
    captured = capsys.readouterr()
    flat = " ".join(captured.err.replace("│", " ").split())
    assert code == 2
    assert re.search(sentence, flat), flat
    assert "Traceback" not in captured.err
