"""A user's file under pyright strict: every public name, with what it may be given."""

# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false
# The two are of jax and optax: neither has types for all of its own names.
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import optax_wsd
from optax_wsd import laws, shapes

STEPS, RATE = np.int64(10), np.float32(0.1)
ENDS, RATES = np.array([20, 40]), [0.1, 0.1, 0.05, 0.0]
JAX_ENDS, JAX_RATES = jax.device_put(ENDS), jax.device_put(np.array(RATES))


def use_shapes() -> list[Callable[[Any], Any]]:
    factories = (shapes.power, shapes.one_minus_power, shapes.lowered_linear)
    made = [factory(value) for factory in factories for value in (0.5, RATE)]
    plain = [shapes.exponential(0.5), shapes.linear, shapes.one_minus_sqrt]
    return [*made, *plain, shapes.one_minus_square, shapes.cosine, shapes.mirror_cosine]


def use_schedules(number: jax.Array) -> list[optax.Schedule]:
    wsd = optax_wsd.wsd_schedule(RATE, STEPS, warmup_steps=2, cooldown_steps=number)
    made: list[optax.Schedule] = [wsd]
    for ends in (ENDS, JAX_ENDS, [20, 40], (20, 40), list(ENDS)):
        made += [
            optax_wsd.wsds_schedule(RATE, ends, warmup_steps=2, cooldown_steps=STEPS),
            optax_wsd.multistep_schedule(RATE, ends, warmup_steps=2, scales=[0.5, 0.1]),
        ]
    return [
        *made,
        optax_wsd.multistep_schedule(0.1, ENDS, warmup_steps=2, scales=ENDS / 50),
        optax_wsd.cooldown_schedule(wsd, STEPS, number, end_value=RATE),
        optax_wsd.cooldown_schedule(0.1, 5, 5, shape=lambda p: 1 - p),
        optax_wsd.inverse_power_schedule(RATE, warmup_steps=STEPS, exponent=number),
        optax_wsd.infinite_schedule(1, number, warmup_steps=2, transition_steps=STEPS),
    ]


def use_optimizers(params: dict[str, jax.Array], number: jax.Array) -> Any:
    tx = optax.named_chain(
        ("adamw", optax.adamw(1e-3)),
        ("cool", optax_wsd.scale_by_cooldown(shapes.linear, end_scale=number)),
        ("ema", optax_wsd.params_ema(RATE, every=STEPS, start_step=number)),
        ("power", optax_wsd.params_power_ema(number)),
        ("swa", optax_wsd.params_swa(window=4)),
        ("lawa", optax_wsd.params_lawa(2, every=STEPS)),
    )
    state = tx.init(params)
    state = optax_wsd.start_cooldown(state, STEPS, start_step=3, which="cool")
    state = optax_wsd.start_cooldown(state, number, end_scale=RATE)
    state = optax_wsd.stop_cooldown(state, which="cool")
    scale = optax_wsd.cooldown_scale(state, which="cool") * 2
    weights = optax_wsd.eval_params(state, params, which="ema")
    weights = optax_wsd.train_params(state, weights, which="ema")
    for free in (
        optax_wsd.schedule_free(optax.scale_by_adam(), number, b1=0.9),
        optax_wsd.schedule_free_sgd(number, b1=optax_wsd.growing_b1_schedule(STEPS)),
        optax_wsd.schedule_free_adamw(optax.constant_schedule(0.1), b2=RATE),
        optax_wsd.schedule_free_radam(number, weight_decay=number),
    ):
        adopted = optax_wsd.adopt_state(state, free.init(params), count=STEPS)
        weights = optax_wsd.eval_params(adopted, params)
    return scale, weights


def use_merging(snapshots: list[dict[str, jax.Array]]) -> Any:
    stored = [(int(step), gamma) for step in ENDS for gamma in (4.0, 16.0)]
    gamma = optax_wsd.gamma_from_width(RATE)
    gamma += optax_wsd.gamma_from_half_life(RATE)
    weights = optax_wsd.post_hoc_ema_weights(stored, gamma, STEPS)
    weights += optax_wsd.post_hoc_ema_weights(np.array(stored), RATE, 40)
    for given in (weights, JAX_RATES, [0.5, 0.5], (0.5, 0.5), list(weights)):
        optax_wsd.merge_params(snapshots, given)
    return optax_wsd.merge_params(
        iter(snapshots), optax_wsd.merge_weights(4, shapes.cosine)
    )


def use_laws() -> Any:
    bounds = [
        laws.last_iterate_bound(rates, distance=2.0, gradient_norm=1)
        for rates in (RATES, np.array(RATES), JAX_RATES, tuple(RATES))
    ]
    scale, bound = laws.optimal_scale(RATES)
    curves = [(RATES, [1, 2, 3], [3.0, 2.5, 2.0]), (np.array(RATES), ENDS, ENDS / 10)]
    law = laws.fit_loss_law(curves)
    plan = laws.best_cooldown(law, RATES, [2, 3])
    report = optax_wsd.describe_schedule(lambda step: 0.1 * step, 100)
    rates = laws.deepseek_learning_rate(1e18), laws.deepseek_batch_size(1e18)
    return bounds, scale, bound, law.predict(RATES, [1, 2]), plan, report, rates
