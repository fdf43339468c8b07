"""Schedule-free training: no end to plan, weights to evaluate at any time.

    python -m examples.schedule_free

The params of the loop are y, where gradients are taken; `eval_params` is x, what one
evaluates and ships. `train_params` goes back, for a run of which only x was saved.
"""

import jax
import jax.numpy as jnp
import optax

import optax_wsd


def main(steps: int = 2000) -> dict[str, float]:
    optimum = jnp.linspace(-1, 1, 100)

    def loss_fn(params, noise):
        return jnp.mean((params["w"] - optimum + noise) ** 2)

    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax_wsd.schedule_free_adamw(0.03, warmup_steps=steps // 20),
    )
    params = {"w": jnp.zeros(100)}
    state = optimizer.init(params)

    @jax.jit
    def step_fn(params, state, key):
        grads = jax.grad(loss_fn)(params, jax.random.normal(key, (100,)))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    losses = {}
    for step in range(1, steps + 1):
        params, state = step_fn(params, state, jax.random.key(step))
        if step % (steps // 4) == 0:
            x = optax_wsd.eval_params(state, params)
            losses = {"y": float(loss_fn(params, 0.0)), "x": float(loss_fn(x, 0.0))}
            print(f"step {step:5}  loss at y {losses['y']:.5f}  at x {losses['x']:.5f}")

    back = optax_wsd.train_params(state, optax_wsd.eval_params(state, params))
    print(
        f"y from x and the state: off by {jnp.abs(back['w'] - params['w']).max():.1e}"
    )
    return losses


if __name__ == "__main__":
    main()
