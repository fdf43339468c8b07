"""Replacements of cosine decay for Optax: WSD, weight averaging, schedule-free."""

from . import shapes
from ._cooldown import cooldown_scale, scale_by_cooldown, start_cooldown, stop_cooldown
from ._describe import describe_schedule
from ._merging import (
    gamma_from_half_life,
    gamma_from_width,
    merge_params,
    merge_weights,
    post_hoc_ema_weights,
)
from ._schedules import (
    cooldown_schedule,
    infinite_schedule,
    inverse_power_schedule,
    multistep_schedule,
    wsd_schedule,
    wsds_schedule,
)

__all__ = [
    "cooldown_scale",
    "cooldown_schedule",
    "describe_schedule",
    "gamma_from_half_life",
    "gamma_from_width",
    "infinite_schedule",
    "inverse_power_schedule",
    "merge_params",
    "merge_weights",
    "multistep_schedule",
    "post_hoc_ema_weights",
    "scale_by_cooldown",
    "shapes",
    "start_cooldown",
    "stop_cooldown",
    "wsd_schedule",
    "wsds_schedule",
]
