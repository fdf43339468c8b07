# /// script
# dependencies = ["flax", "orbax-checkpoint"]
# ///
"""Flax Linen: `TrainState`, checkpoints by Orbax."""

import jax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from .checks import load_page

page = load_page(__name__)
checkpointer = ocp.StandardCheckpointer()


class Run:
    def __init__(self, tx):
        params = page.model.init(jax.random.key(1), page.x)["params"]
        self.state = TrainState.create(apply_fn=page.model.apply, params=params, tx=tx)

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
