"""Weight averaging in a Flax NNX loop: evaluate a copy of the model at the average.

    python -m examples.averaging_nnx

The average lives in the optimizer's state: it is saved, restored and sharded with it.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optax_wsd


class MLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(2, 32, rngs=rngs)
        self.out = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x_Bx2):
        return self.out(nnx.gelu(self.hidden(x_Bx2)))


def batch(key):
    x_Bx2 = jax.random.normal(key, (32, 2))
    y_Bx1 = jnp.prod(x_Bx2, axis=1, keepdims=True)
    return x_Bx2, y_Bx1 + 0.5 * jax.random.normal(jax.random.fold_in(key, 1), (32, 1))


def loss_fn(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


@nnx.jit
def train_step(model, optimizer, key):
    optimizer.update(model, nnx.grad(loss_fn)(model, *batch(key)))


def main(steps: int = 1000) -> dict[str, float]:
    model = MLP(nnx.Rngs(0))
    tx = optax.chain(optax.adamw(0.01), optax_wsd.params_power_ema(gamma=7.0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for step in range(steps):
        train_step(model, optimizer, jax.random.key(step))

    averaged = nnx.clone(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(averaged, optax_wsd.eval_params(optimizer.opt_state, params))

    x = jax.random.normal(jax.random.key(-1), (1000, 2))
    y = jnp.prod(x, axis=1, keepdims=True)
    losses = {
        "raw": float(loss_fn(model, x, y)),
        "averaged": float(loss_fn(averaged, x, y)),
    }
    for name, loss in losses.items():
        print(f"{name:9} {loss:.4f}")
    return losses


if __name__ == "__main__":
    main()
