"""What a program has to let in: the page of the guide as it stands, then a to e.

A program's module says, in a `Run`, how that program does each of a few things; what is
asked of it is said here, once.
"""

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import optax

import optax_wsd

PAGES = Path(__file__).parent.parent / "docs" / "integrations"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.S | re.M)
STABLE, COOLDOWN = 6, 4  # updates


class Run(Protocol):
    """A tiny run in one program, with an optimizer; the same batches in every run.

    A method raises NotImplementedError, naming the program's file and function, where
    the program lets nothing in.
    """

    params: Any  # as trained; may be set
    opt_state: optax.OptState  # may be set

    def __init__(self, tx: optax.GradientTransformation): ...

    def train(self, steps: int) -> None:
        """Updates, by the program's own loop."""
        ...

    def loss(self, params: Any) -> float:
        """The program's own evaluation, at these params."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the program's own checkpoint."""
        ...

    def restore(self, folder: Path) -> None:
        """Reads it into this run, which has the same optimizer."""
        ...


class StateRun:
    """The params and opt_state of a `state` with a `replace`, as Flax's TrainState."""

    state: Any

    @property
    def params(self):
        return self.state.params

    @params.setter
    def params(self, params):
        self.state = self.state.replace(params=params)

    @property
    def opt_state(self):
        return self.state.opt_state

    @opt_state.setter
    def opt_state(self, opt_state):
        self.state = self.state.replace(opt_state=opt_state)


def load_page(name: str) -> Any:
    """Runs the code of a page of the guide; what it defines are the attributes."""
    path = PAGES / f"{name.rpartition('.')[2]}.md"
    module = types.ModuleType(path.stem)
    for block in BLOCK.findall(path.read_text()):
        exec(compile(block, str(path), "exec"), module.__dict__)
    return module


def check_cooldown(new_run: type[Run], folder: Path) -> None:
    """(a) Started from the program's loop; ends at scale 0; nothing compiles again."""
    tx = optax.chain(adamw(), optax_wsd.scale_by_cooldown())
    traces = []

    def update(updates, state, params=None, **extra_args):
        traces.append(None)
        return tx.update(updates, state, params, **extra_args)

    run = new_run(optax.GradientTransformationExtraArgs(tx.init, update))
    run.train(STABLE)
    before = len(traces)
    cool_down(run)
    assert len(traces) == before > 0, "the update was traced again in the cooldown"
    cooled = snapshot(run.params)
    run.train(1)
    assert_equal(run.params, cooled)


def check_average(new_run: type[Run], folder: Path) -> None:
    """(b) The mean of the params so far is what the program's evaluation reads."""
    tx = optax.chain(adamw(), optax_wsd.params_swa())
    check_evaluation(new_run(tx), lambda run: run.params)


def check_schedule_free(new_run: type[Run], folder: Path) -> None:
    """(c) x, at a constant rate the mean of the z so far, is what it reads."""
    b1 = 0.9

    def z(run):  # as y = b1 x + (1 - b1) z
        x = optax_wsd.eval_params(run.opt_state, run.params)
        return jax.tree.map(lambda y, x: (y - b1 * x) / (1 - b1), run.params, x)

    check_evaluation(new_run(optax_wsd.schedule_free_adamw(0.01, b1=b1)), z)


def check_checkpoint(new_run: type[Run], folder: Path) -> None:
    """(d) Restored bit for bit, and the cooldown from there is the undisturbed one."""
    tx = optax.chain(
        adamw(), optax_wsd.scale_by_cooldown(), optax_wsd.params_power_ema(4.0)
    )
    run = new_run(tx)
    run.train(STABLE)
    run.save(folder)
    restored = new_run(tx)
    restored.restore(folder)
    assert_equal((restored.params, restored.opt_state), (run.params, run.opt_state))
    for each in (run, restored):
        cool_down(each)
    assert_equal((restored.params, restored.opt_state), (run.params, run.opt_state))


def check_adoption(new_run: type[Run], folder: Path) -> None:
    """(e) An AdamW run goes on as if nothing had happened, then cools down."""
    old = new_run(adamw())
    old.train(STABLE)
    new = new_run(
        optax.chain(adamw(), optax_wsd.scale_by_cooldown(), optax_wsd.params_swa())
    )
    new.params = snapshot(old.params)
    new.opt_state = optax_wsd.adopt_state(snapshot(old.opt_state), new.opt_state)
    for each in (old, new):
        each.train(2)
    assert_close(new.params, old.params)
    cool_down(new)


CHECKS: dict[str, Callable[[type[Run], Path], None]] = {
    "a": check_cooldown,
    "b": check_average,
    "c": check_schedule_free,
    "d": check_checkpoint,
    "e": check_adoption,
}


def check_evaluation(run: Run, sample: Callable[[Run], Any]) -> None:
    samples = []
    for _ in range(STABLE):
        run.train(1)
        samples.append(snapshot(sample(run)))
    params = optax_wsd.eval_params(run.opt_state, run.params)
    leaves = [jax.tree.leaves(each) for each in samples]
    assert_close(params, [np.mean(leaf, axis=0) for leaf in zip(*leaves, strict=True)])
    raw, read = run.loss(run.params), run.loss(params)
    assert np.isfinite(read) and read != raw, f"evaluated {read}, as trained {raw}"


def cool_down(run: Run) -> None:
    run.opt_state = optax_wsd.start_cooldown(run.opt_state, COOLDOWN)
    run.train(COOLDOWN)
    assert optax_wsd.cooldown_scale(run.opt_state) == 0


def adamw() -> optax.GradientTransformation:
    return optax.adamw(optax.warmup_constant_schedule(0.001, 0.01, STABLE // 2))


def snapshot(tree):
    """A copy that no later step can donate or change."""
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def assert_equal(tree, other):
    compare(np.testing.assert_array_equal, tree, other)


def assert_close(tree, other):
    compare(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), tree, other)


def compare(assertion, tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    for leaf, expected in pairs:
        assertion(np.asarray(leaf), np.asarray(expected))
