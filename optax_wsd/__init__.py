"""Replacements of cosine decay for Optax: WSD, weight averaging, schedule-free."""

from . import laws, shapes
from ._adoption import adopt_state
from ._averaging import params_ema, params_lawa, params_power_ema, params_swa
from ._cooldown import cooldown_scale, scale_by_cooldown, start_cooldown, stop_cooldown
from ._describe import describe_schedule
from ._evaluation import eval_params, train_params
from ._merging import (
    gamma_from_half_life,
    gamma_from_width,
    merge_params,
    merge_weights,
    post_hoc_ema_weights,
)
from ._schedule_free import (
    schedule_free,
    schedule_free_adamw,
    schedule_free_radam,
    schedule_free_sgd,
)
from ._schedules import (
    cooldown_schedule,
    growing_b1_schedule,
    infinite_schedule,
    inverse_power_schedule,
    multistep_schedule,
    wsd_schedule,
    wsds_schedule,
)

__version__ = "0.1.0"

__all__ = [
    "adopt_state",
    "cooldown_scale",
    "cooldown_schedule",
    "describe_schedule",
    "eval_params",
    "gamma_from_half_life",
    "gamma_from_width",
    "growing_b1_schedule",
    "infinite_schedule",
    "inverse_power_schedule",
    "laws",
    "merge_params",
    "merge_weights",
    "multistep_schedule",
    "params_ema",
    "params_lawa",
    "params_power_ema",
    "params_swa",
    "post_hoc_ema_weights",
    "scale_by_cooldown",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "shapes",
    "start_cooldown",
    "stop_cooldown",
    "train_params",
    "wsd_schedule",
    "wsds_schedule",
]
