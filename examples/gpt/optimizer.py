"""The optimizer: every phase and every branch has the same state tree and program."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import optax_wsd

from .config import Config, OptimizerConfig, require

# Two averages of the weights, with widths relative to the run. The first is evaluated;
# from snapshots of both any other width can be made after training.
AVERAGE_WIDTHS = {"ema": 0.10, "narrow_ema": 0.05}
Which = Literal["raw", "ema", "narrow_ema"]


def make_optimizer(config: OptimizerConfig, peak) -> optax.GradientTransformation:
    """Gradient clipping and one of the two optimizers; the peak rate may be traced."""
    inner = {"adamw": _adamw, "schedule_free": _schedule_free}[config.optimizer]
    tx = optax.chain(optax.clip_by_global_norm(1.0), inner(config, peak))
    if config.skip_nonfinite:
        tx = optax.apply_if_finite(tx, max_consecutive_errors=2**31 - 1)
    return tx


def _adamw(config: OptimizerConfig, peak) -> optax.GradientTransformation:
    """AdamW, a cooldown on demand, and averages of what comes out of both."""
    averages = {
        name: optax_wsd.params_power_ema(optax_wsd.gamma_from_width(width))
        for name, width in AVERAGE_WIDTHS.items()
    }
    shape = getattr(optax_wsd.shapes, config.shape)
    return optax.named_chain(
        ("adamw", optax.adamw(stable_schedule(config, peak), **_adam_options(config))),
        ("cooldown", optax_wsd.scale_by_cooldown(shape)),
        *averages.items(),
    )


def _schedule_free(config: OptimizerConfig, peak) -> optax.GradientTransformation:
    return optax_wsd.schedule_free_adamw(
        peak, warmup_steps=config.warmup_steps, **_adam_options(config)
    )


def _adam_options(config: OptimizerConfig) -> dict[str, Any]:
    def is_matrix(params):  # norms have no weight decay
        return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)

    return {
        "b1": config.b1,
        "b2": config.b2,
        "weight_decay": config.weight_decay,
        "mask": is_matrix,
    }


def stable_schedule(config: OptimizerConfig, peak) -> optax.Schedule:
    """A warmup whose first update is not lost, then the peak for ever."""
    return optax_wsd.wsd_schedule(
        peak,
        max(config.warmup_steps, 1),
        init_value=peak / max(config.warmup_steps, 1),
        warmup_steps=config.warmup_steps,
        cooldown_steps=0,
    )


def learning_rate(config: OptimizerConfig, peak, state: dict[str, Any]) -> jax.Array:
    """The rate of the next update."""
    rate = jnp.asarray(stable_schedule(config, peak)(state["step"]))
    if config.optimizer == "schedule_free":
        return rate
    return rate * optax_wsd.cooldown_scale(state["opt_state"])


def plan_cooldown(state: dict[str, Any], config: Config) -> dict[str, Any]:
    """The state with the cooldown of its run planned, or as it is for a stable run."""
    start, steps = config.cooldown_start, config.optimizer.cooldown_steps
    if start is None:
        return state
    opt_state = optax_wsd.start_cooldown(state["opt_state"], steps, start_step=start)
    return state | {"opt_state": opt_state}


def weights_to_evaluate(
    config: OptimizerConfig, state: dict[str, Any], which: str = "raw"
) -> Any:
    """The weights as they were trained, or an average of `AVERAGE_WIDTHS`."""
    params, opt_state = state["params"], state["opt_state"]
    if config.optimizer == "schedule_free":
        require(which == "raw", "A schedule-free run keeps no averages: --which raw.")
        return optax_wsd.eval_params(opt_state, params)
    if which == "raw":
        return params
    return optax_wsd.eval_params(opt_state, params, which=which)
