# /// script
# dependencies = ["flax", "orbax-checkpoint"]
# ///
"""Flax NNX: `nnx.Optimizer`, checkpoints by Orbax."""

import orbax.checkpoint as ocp
from flax import nnx

from .checks import load_page

page = load_page(__name__)
checkpointer = ocp.StandardCheckpointer()


class Run:
    def __init__(self, tx):
        self.model = page.Net(nnx.Rngs(0))
        self.optimizer = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

    @property
    def params(self):
        return nnx.state(self.model, nnx.Param)

    @params.setter
    def params(self, params):
        nnx.update(self.model, params)

    @property
    def opt_state(self):
        return self.optimizer.opt_state

    @opt_state.setter
    def opt_state(self, opt_state):
        self.optimizer.opt_state = opt_state

    def train(self, steps):
        for _ in range(steps):
            page.train_step(self.model, self.optimizer)

    def loss(self, params):
        model = nnx.clone(self.model)
        nnx.update(model, params)
        return float(page.loss_fn(model))

    def save(self, folder):
        checkpointer.save(folder / "nnx", nnx.state((self.model, self.optimizer)))
        checkpointer.wait_until_finished()

    def restore(self, folder):
        state = nnx.state((self.model, self.optimizer))
        nnx.update(
            (self.model, self.optimizer), checkpointer.restore(folder / "nnx", state)
        )
