"""Replacements of cosine decay for Optax: WSD, weight averaging, schedule-free."""

from . import shapes
from ._cooldown import cooldown_scale, scale_by_cooldown, start_cooldown, stop_cooldown
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
    "infinite_schedule",
    "inverse_power_schedule",
    "multistep_schedule",
    "scale_by_cooldown",
    "shapes",
    "start_cooldown",
    "stop_cooldown",
    "wsd_schedule",
    "wsds_schedule",
]
