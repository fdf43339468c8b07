# /// script
# dependencies = [
#     "maxtext",
#     # What its training imports of its extra `tpu`, which has 235 packages.
#     "aqtp", "datasets", "drjax", "etils", "flax", "grain", "huggingface_hub",
#     "jaxtyping", "jinja2", "ml_collections", "omegaconf", "orbax-checkpoint",
#     "packaging", "pathwaysutils", "pillow", "protobuf", "psutil", "pydantic",
#     "pyyaml", "qwix", "sentencepiece", "sympy", "tensorboardX", "tensorflow-cpu",
#     "tiktoken", "tokamax", "tokenizers", "transformers",
# ]
# ///
"""MaxText: the page's script, and the compiled steps and checkpoints of its loop."""

import itertools
import shutil
from pathlib import Path

import jax
from flax import nnx
from flax.core.spmd import logical_axis_rules
from maxtext.common import checkpointing
from maxtext.configs import pyconfig
from maxtext.trainers.pre_train import train
from maxtext.utils import sharding, train_utils

from .checks import load_page

page = load_page(__name__)
numbers = itertools.count()


class Run:
    def __init__(self, tx):
        self.tx = tx
        self.start(Path(f"maxtext-{next(numbers)}"))

    def start(self, folder):
        """What `train_loop` does before its first step; restores what is there."""
        train_utils.create_training_optimizer = lambda config, model, mesh=None: (
            lambda step: 0.01,
            self.tx,
        )
        self.folder = folder.absolute()
        output = f"base_output_directory={self.folder}"
        more = [output, "steps=100", "eval_interval=100", "eval_steps=1"]
        self.config = config = pyconfig.initialize([*page.arguments, *more])
        (
            _,
            self.manager,
            shardings,
            _,
            self.mesh,
            _,
            self.data,
            self.loader,
            _,
            test,
            state,
        ) = train_utils.setup_train_loop(config, None)
        self.graph, self.state = nnx.split(state)
        params_shardings, shardings = sharding.maybe_update_params_sharding_with_opt(
            config, shardings
        )
        self.train_step, self.eval_step = train_utils.jit_train_and_eval_step(
            config,
            self.graph,
            self.mesh,
            self.state,
            shardings,
            train.train_step,
            page.evaluate,
            test,
            params_shardings,
        )

    def replace(self, **parts):
        return nnx.merge_state(self.state, nnx.State(parts))

    def in_mesh(self, step, state):
        with (
            jax.set_mesh(self.mesh),
            logical_axis_rules(self.config.logical_axis_rules),
        ):
            return step(state, self.loader.load_next_batch())

    @property
    def params(self):
        return self.state["model"].filter(nnx.Param)

    @params.setter
    def params(self, params):
        self.state = self.replace(model=params)

    @property
    def opt_state(self):
        return nnx.merge(self.graph, self.state).optimizer.opt_state

    @opt_state.setter
    def opt_state(self, opt_state):
        state = nnx.merge(self.graph, self.state)
        state.optimizer.opt_state = opt_state
        self.state = nnx.state(state)

    def train(self, steps):
        for _ in range(steps):
            self.state, _ = self.in_mesh(self.train_step, self.state)

    def loss(self, params):
        metrics = self.in_mesh(self.eval_step, self.replace(model=params))
        return float(metrics["scalar"]["evaluation/loss"])

    def save(self, folder):
        checkpointing.maybe_save_checkpoint(
            self.manager, self.state, self.config, self.data
        )
        checkpointing.wait_until_finished(self.manager)
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def restore(self, folder):
        self.start(folder)
