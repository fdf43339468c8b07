# /// script
# dependencies = ["google-tunix"]
# ///
"""Tunix: `PeftTrainer`, checkpoints by its `CheckpointManager`."""

from flax import nnx
from tunix.sft.checkpoint_manager import CheckpointManager
from tunix.sft.peft_trainer import TrainingConfig

from .checks import load_page

page = load_page(__name__)


class Run:
    def __init__(self, tx):
        config = TrainingConfig(eval_every_n_steps=1)
        trainer = page.Trainer(page.Net(nnx.Rngs(0)), tx, config)
        self.trainer = trainer.with_loss_fn(page.loss_fn)
        self.trainer.is_managed_externally = True  # train more than once

    @property
    def params(self):
        return nnx.clone(nnx.state(self.trainer.model, nnx.Param))

    @params.setter
    def params(self, params):
        nnx.update(self.trainer.model, params)

    @property
    def opt_state(self):
        return self.trainer.optimizer.opt_state

    @opt_state.setter
    def opt_state(self, opt_state):
        state = nnx.State({"opt_state": nnx.state(opt_state)})
        nnx.update(self.trainer.optimizer, state)

    def train(self, steps):
        self.trainer.train([page.batch] * steps)

    def loss(self, params):
        trained = self.params
        self.params = params
        _, eval_step = self.trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        loss, _ = eval_step(page.batch)
        self.params = trained
        return float(loss)

    def save(self, folder):
        manager = CheckpointManager(str(folder))
        manager.save(1, self.trainer.model, self.trainer.optimizer, force=True)
        manager.close()

    def restore(self, folder):
        manager = CheckpointManager(str(folder))
        manager.maybe_restore(self.trainer.model, self.trainer.optimizer)
