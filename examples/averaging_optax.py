"""Weight averaging in an optax loop: one more link in the chain, one call to evaluate.

    python -m examples.averaging_optax

Noisy gradients at a constant learning rate leave the weights rattling around the
optimum; their average sits in the middle.
"""

import jax
import jax.numpy as jnp
import optax

import optax_wsd


def main(steps: int = 2000) -> dict[str, float]:
    optimum = jnp.linspace(-1, 1, 100)

    def loss_fn(params, noise):
        return jnp.mean((params["w"] - optimum + noise) ** 2)

    optimizer = optax.named_chain(
        ("adamw", optax.adamw(0.03, weight_decay=0.0)),
        ("ema", optax_wsd.params_ema(0.99)),
        ("mean", optax_wsd.params_swa(start_step=steps // 2)),
    )
    params = {"w": jnp.zeros(100)}
    state = optimizer.init(params)

    @jax.jit
    def step_fn(params, state, key):
        grads = jax.grad(loss_fn)(params, jax.random.normal(key, (100,)))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        params, state = step_fn(params, state, jax.random.key(step))

    weights = {
        "raw": params,
        "ema": optax_wsd.eval_params(state, params, which="ema"),
        "mean": optax_wsd.eval_params(state, params, which="mean"),
    }
    losses = {name: float(loss_fn(p, 0.0)) for name, p in weights.items()}
    for name, loss in losses.items():
        print(f"{name:5} {loss:.5f}")
    return losses


if __name__ == "__main__":
    main()
