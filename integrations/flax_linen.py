# /// script
# dependencies = ["flax", "orbax-checkpoint"]
# ///
"""Flax Linen: `TrainState`, checkpoints by Orbax."""

import jax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from .checks import StateRun, load_page

page = load_page(__name__)
checkpointer = ocp.StandardCheckpointer()


class Run(StateRun):
    def __init__(self, tx):
        params = page.model.init(jax.random.key(1), page.x)["params"]
        self.state = TrainState.create(apply_fn=page.model.apply, params=params, tx=tx)

    def train(self, steps):
        for _ in range(steps):
            self.state = page.train_step(self.state)

    def loss(self, params):
        return float(page.loss_fn(params))

    def save(self, folder):
        checkpointer.save(folder / "state", self.state)
        checkpointer.wait_until_finished()

    def restore(self, folder):
        self.state = checkpointer.restore(folder / "state", self.state)
