"""The optimizer: every phase and every branch has the same state tree and program."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_wsd

from .config import Config, OptimizerConfig


def make_optimizer(config: OptimizerConfig, peak) -> optax.GradientTransformation:
    """Clipping, AdamW and a cooldown on demand; the peak rate may be traced."""
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            stable_schedule(config, peak),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=is_matrix,
        ),
        optax_wsd.scale_by_cooldown(getattr(optax_wsd.shapes, config.shape)),
    )
    if config.accumulate == 1:
        return tx
    steps = optax.MultiSteps(tx, config.accumulate)
    return steps.gradient_transformation()


def stable_schedule(config: OptimizerConfig, peak) -> optax.Schedule:
    """A warmup whose first update is not lost, then the peak for ever."""
    return optax_wsd.wsd_schedule(
        peak,
        max(config.warmup_steps, 1),
        init_value=peak / (config.warmup_steps + 1),
        warmup_steps=config.warmup_steps,
        cooldown_steps=0,
    )


def learning_rate(config: OptimizerConfig, peak, state: dict[str, Any]) -> jax.Array:
    """The rate of the next update."""
    rate = stable_schedule(config, peak)(state["step"])
    return rate * optax_wsd.cooldown_scale(state["opt_state"])


def plan_cooldown(state: dict[str, Any], config: Config) -> dict[str, Any]:
    """The state with the cooldown of its run planned, or as it is for a stable run."""
    start, steps = config.cooldown_start, config.optimizer.cooldown_steps
    if start is None:
        return state
    opt_state = optax_wsd.start_cooldown(state["opt_state"], steps, start_step=start)
    return state | {"opt_state": opt_state}


def weights_to_evaluate(state: dict[str, Any]) -> dict[str, Any]:
    """The weights whose validation loss is logged, by the name of the metric."""
    return {"val_loss": state["params"]}


def is_matrix(params):
    """The mask of weight decay: norms have none."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
