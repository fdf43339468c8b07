# /// script
# dependencies = ["kauldron"]
# ///
"""Kauldron: its `TrainStep`, evaluators and `Checkpointer`."""

from .checks import StateRun, load_page

page = load_page(__name__)


class Run(StateRun):
    def __init__(self, tx):
        self.tx = tx
        self.trainer = page.new_trainer(tx, "not saved")
        self.state = self.trainer.init_state()

    def train(self, steps):
        self.state = page.train(self.trainer, self.state, steps)

    def loss(self, params):
        # Without an average in its state, the evaluator takes the params as they are.
        state = self.state.replace(params=params, opt_state=())
        found = self.trainer.evals["average"].evaluate(state, 0).compute()
        return float(found.loss_values["losses/l2"])

    def save(self, folder):
        checkpointer = page.new_trainer(self.tx, folder).checkpointer
        checkpointer.save(self.state, step=1)
        checkpointer.wait_until_finished()

    def restore(self, folder):
        checkpointer = page.new_trainer(self.tx, folder).checkpointer
        self.state = checkpointer.restore(self.state)
