# /// script
# dependencies = ["keras", "jax", "orbax-checkpoint"]
# ///
"""Keras on JAX: `fit` with the page's optimizer, checkpoints of `get_state_tree`."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from .checks import load_page

page = load_page(__name__)
checkpointer = ocp.StandardCheckpointer()


class Run:
    def __init__(self, tx):
        page.keras.utils.clear_session()  # names as of a new process
        self.model = page.new_model(tx)

    @property
    def params(self):
        return [variable.value for variable in self.model.trainable_variables]

    @params.setter
    def params(self, params):
        for variable, leaf in zip(self.model.trainable_variables, params, strict=True):
            variable.assign(leaf)

    @property
    def opt_state(self):
        return self.model.optimizer.get_state()

    @opt_state.setter
    def opt_state(self, opt_state):
        self.model.optimizer.set_state(opt_state)

    def train(self, steps):
        page.fit(self.model, steps)

    def loss(self, params):
        trained = self.params
        self.params = params
        loss = self.model.evaluate(page.x, page.y, verbose=0)
        self.params = trained
        return loss

    def save(self, folder):
        checkpointer.save(folder / "model", self.model.get_state_tree())
        checkpointer.wait_until_finished()

    def restore(self, folder):
        tree = jax.tree.map(np.asarray, self.model.get_state_tree())
        self.model.set_state_tree(checkpointer.restore(folder / "model", tree))
