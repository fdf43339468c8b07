"""BatchNorm with averaged weights: statistics must be those of the weights evaluated.

    python -m examples.batch_norm

Running statistics are gathered at the params being trained. Averaged weights, and the x
of schedule-free, have others: reset the statistics and run a few training batches.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optax_wsd


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(2, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def batch(key, size=64):
    x = jax.random.normal(key, (size, 2))
    return x, jnp.prod(x, axis=1, keepdims=True)


def loss_fn(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


@nnx.jit
def train_step(model, optimizer, key):
    optimizer.update(model, nnx.grad(loss_fn)(model, *batch(key)))


def at_average(model, optimizer, batches=20):
    """A copy of the model at the weights to evaluate, with statistics of their own."""
    copy = nnx.clone(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(copy, optax_wsd.eval_params(optimizer.opt_state, params))
    copy.train()
    gather = nnx.jit(lambda copy, x: copy(x))
    for key in range(batches):
        gather(copy, batch(jax.random.key(key))[0])
    copy.eval()
    return copy


def main(steps: int = 300) -> dict[str, float]:
    average = optax.chain(optax.adamw(0.02), optax_wsd.params_ema(0.99))
    losses = {}
    for name, tx in (
        ("ema", average),
        ("schedule_free", optax_wsd.schedule_free_adamw(0.02, warmup_steps=20)),
    ):
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for step in range(steps):
            train_step(model, optimizer, jax.random.key(step))
        ready = at_average(model, optimizer)
        losses[name] = float(loss_fn(ready, *batch(jax.random.key(-1), 2000)))
        print(f"{name:13} {losses[name]:.4f}")
    return losses


if __name__ == "__main__":
    main()
