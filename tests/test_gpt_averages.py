"""Averages chosen after training, on the GPT example itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_wsd
from examples.gpt import model
from examples.gpt.data import StepBatches, load_text
from tests.gpt_tiny import tiny_config, write_text

STEPS, SNAPSHOTS = 320, 16
STORED = {"wide": 6.94, "narrow": 16.97}  # relative widths 0.10 and 0.05
WANTED = {"wanted_8": 8.0, "wanted_11": 11.0, "wanted_14": 14.0}


def relative_distance(got, want):
    apart = optax.tree.norm(optax.tree.sub(got, want))
    return float(apart / optax.tree.norm(want))


def test_any_power_average_between_two_stored_ones_is_rebuilt_within_1_percent(
    tmp_path,
):
    """16 snapshots of two averages give what a third would have been, if trained."""
    config = tiny_config(write_text(tmp_path))
    batches = StepBatches(load_text(config.data).train, config.data, seed=0)
    tokens = np.stack([batches[step] for step in range(STEPS)])
    graphdef = model.graph(config.model)
    tx = optax.named_chain(
        ("adamw", optax.adamw(0.01)),
        *((n, optax_wsd.params_power_ema(g)) for n, g in (STORED | WANTED).items()),
    )

    def step_fn(carry, tokens):
        params, state = carry
        grads = jax.grad(lambda p: model.next_byte_loss(graphdef, p, tokens))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, tokens: jax.lax.scan(step_fn, carry, tokens)[0])
    params = model.init_params(config.model, 0)
    carry, stored, snapshots = (params, tx.init(params)), [], []
    for i, part in enumerate(np.split(tokens, SNAPSHOTS), start=1):
        params, state = carry = train(carry, jnp.asarray(part))
        for name, gamma in STORED.items():
            stored.append((i * STEPS // SNAPSHOTS, gamma))
            snapshots.append(optax_wsd.eval_params(state, params, which=name))
    for name, gamma in WANTED.items():
        weights = optax_wsd.post_hoc_ema_weights(stored, gamma, STEPS)
        rebuilt = optax_wsd.merge_params(snapshots, weights)
        direct = optax_wsd.eval_params(state, params, which=name)
        error = relative_distance(rebuilt, direct)
        nearest = min(relative_distance(last, direct) for last in snapshots[-2:])
        assert error < 0.01 and error < 0.02 * nearest
