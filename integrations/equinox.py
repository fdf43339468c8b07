# /// script
# dependencies = ["equinox"]
# ///
"""Equinox: a loop of your own, checkpoints by `eqx.tree_serialise_leaves`."""

import equinox as eqx

from .checks import load_page

page = load_page(__name__)


class Run:
    def __init__(self, tx):
        self.tx = tx
        self.model = page.new_model()
        self.opt_state = tx.init(self.params)

    @property
    def params(self):
        return eqx.filter(self.model, eqx.is_inexact_array)

    @params.setter
    def params(self, params):
        self.model = eqx.combine(params, self.model)

    def train(self, steps):
        for _ in range(steps):
            self.model, self.opt_state = page.train_step(
                self.tx, self.model, self.opt_state
            )

    def loss(self, params):
        return float(page.loss_fn(eqx.combine(params, self.model)))

    def save(self, folder):
        eqx.tree_serialise_leaves(folder / "run.eqx", (self.model, self.opt_state))

    def restore(self, folder):
        self.model, self.opt_state = eqx.tree_deserialise_leaves(
            folder / "run.eqx", (self.model, self.opt_state)
        )
