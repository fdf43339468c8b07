"""Schedules and averages as plain dictionaries, so that results can name them."""

import functools
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import optax_wsd
from optax_wsd import shapes

# {"name": "wsd_schedule", "peak_value": 0.004, ...}: a function and its arguments.
Spec = dict[str, Any]

SHAPES = {
    "linear": shapes.linear,
    "one_minus_sqrt": shapes.one_minus_sqrt,
    "one_minus_square": shapes.one_minus_square,
    "cosine": shapes.cosine,
    "mirror_cosine": shapes.mirror_cosine,
    "power(1.5)": shapes.power(1.5),
    "power(2)": shapes.power(2.0),
    "lowered_linear(0.7)": shapes.lowered_linear(0.7),
    "exponential(0.01)": shapes.exponential(0.01),
}


def schedule(spec: Spec, warmup_steps: int) -> optax.Schedule:
    """The schedule that a spec names, from this library or from Optax.

    The first update of a warmup is not lost, and the last of a cooldown is one step
    above the end.
    """
    arguments = {key: value for key, value in spec.items() if key != "name"}
    if "peak_value" in arguments:
        start = arguments["peak_value"] / (warmup_steps + 1)
        arguments |= {"warmup_steps": warmup_steps, "init_value": start}
    if "shape" in arguments:
        arguments["shape"] = SHAPES[arguments["shape"]]
    if isinstance(arguments.get("schedule"), dict):
        arguments["schedule"] = schedule(arguments["schedule"], warmup_steps)
    if "schedules" in arguments:
        parts = arguments["schedules"]
        arguments["schedules"] = [schedule(part, warmup_steps) for part in parts]
    library = optax_wsd if hasattr(optax_wsd, spec["name"]) else optax
    return getattr(library, spec["name"])(**arguments)


def learning_rates(spec: Spec, steps: int, warmup_steps: int) -> np.ndarray:
    """The rate of every step, float32 [steps]."""
    return _learning_rates(json.dumps(spec), steps, warmup_steps)


@functools.cache
def _learning_rates(spec: str, steps: int, warmup_steps: int) -> np.ndarray:
    values = schedule(json.loads(spec), warmup_steps)(jnp.arange(steps))
    return np.asarray(values, np.float32)


def snapshot_weights(spec: Spec, steps: int, every: int) -> np.ndarray:
    """The weight of each snapshot, taken every `every` steps, in an average.

    {"name": "ema", "decay": d}: decay d per step.
    {"name": "power_ema", "gamma": g}: weight grows as step^g.
    {"name": "swa", "start_step": s}: uniform from a step on.
    {"name": "lawa", "size": k, "every": n}: the latest k of those every n steps.
    {"name": "merge", "shape": f, "size": k, "every": n}: these, with decay weights.
    {"name": "line", "start_step": s, "share": r}: at r of the line from step s on.
    """
    at = np.arange(every, steps + 1, every)
    match spec["name"]:
        case "ema":
            weights = spec["decay"] ** (steps - at).astype(float)
        case "power_ema":
            bounds = np.append(0, at) / steps
            weights = np.diff(bounds ** (spec["gamma"] + 1))
        case "swa":
            weights = (at > spec["start_step"]).astype(float)
        case "lawa" | "merge":
            latest = steps - spec["every"] * np.arange(spec["size"])[::-1]
            shape = SHAPES[spec.get("shape", "linear")]
            weights = np.zeros(len(at))
            merge = optax_wsd.merge_weights(spec["size"], shape)
            weights[latest // every - 1] = merge
        case "line":
            weights = (1 - spec["share"]) * (at == spec["start_step"]).astype(float)
            weights[-1] += spec["share"]
        case name:
            raise ValueError(f"no average {name}")
    return weights / np.sum(weights)
