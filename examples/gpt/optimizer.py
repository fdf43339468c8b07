"""The optimizer: every phase and every branch has the same state tree and program."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import optax_wsd

from .config import OptimizerConfig, require

# Two averages of the weights, with widths relative to the run. The first is evaluated;
# from snapshots of both any other width can be made after training.
AVERAGE_WIDTHS = {"ema": 0.10, "narrow_ema": 0.05}
Which = Literal["raw", "ema", "narrow_ema"]


def make_optimizer(config: OptimizerConfig, peak) -> optax.GradientTransformation:
    """Gradient clipping and one of the two optimizers; the peak rate may be traced."""
    options = {
        "b1": config.b1,
        "b2": config.b2,
        "weight_decay": config.weight_decay,
        "mask": lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params),
    }
    if config.optimizer == "schedule_free":
        warmup = config.warmup_steps
        tx = optax_wsd.schedule_free_adamw(peak, warmup_steps=warmup, **options)
    else:
        averages = {
            name: optax_wsd.params_power_ema(optax_wsd.gamma_from_width(width))
            for name, width in AVERAGE_WIDTHS.items()
        }
        shape = getattr(optax_wsd.shapes, config.shape)
        tx = optax.named_chain(
            ("adamw", optax.adamw(stable_schedule(config, peak), **options)),
            ("cooldown", optax_wsd.scale_by_cooldown(shape)),
            *averages.items(),
        )
    tx = optax.chain(optax.clip_by_global_norm(1.0), tx)
    if config.skip_nonfinite:
        tx = optax.apply_if_finite(tx, max_consecutive_errors=2**31 - 1)
    return tx


def stable_schedule(config: OptimizerConfig, peak) -> optax.Schedule:
    """A warmup whose first update is not lost, then the peak for ever."""
    steps = max(config.warmup_steps, 1)
    lengths: dict[str, Any] = {"warmup_steps": steps, "cooldown_steps": 0}
    return optax_wsd.wsd_schedule(peak, steps, init_value=peak / steps, **lengths)


def learning_rate(config: OptimizerConfig, peak, state: dict[str, Any]) -> jax.Array:
    """The rate of the next update."""
    rate = jnp.asarray(stable_schedule(config, peak)(state["step"]))
    if config.optimizer == "schedule_free":
        return rate
    return rate * optax_wsd.cooldown_scale(state["opt_state"])


def weights_to_evaluate(
    config: OptimizerConfig, state: dict[str, Any], which: str = "raw"
) -> Any:
    """The weights as they were trained, or an average of `AVERAGE_WIDTHS`."""
    params, opt_state = state["params"], state["opt_state"]
    if config.optimizer == "schedule_free":
        require(which == "raw", "A schedule-free run keeps no averages: --which raw.")
        return optax_wsd.eval_params(opt_state, params)
    is_raw = which == "raw"
    return params if is_raw else optax_wsd.eval_params(opt_state, params, which=which)
