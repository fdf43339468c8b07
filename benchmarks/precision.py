"""Low precision and long runs: how far averages and schedules are from float64.

    python -m benchmarks.precision      2 minutes; also PyTorch's, if it is installed
                                        (pip install torch schedulefree)

*Averages* see the same noisy weights, rounded to the dtype once, and are compared with
their own formula in float64. *Schedule-free AdamW* gets the same gradients, those of a
float64 run on a noisy quadratic rounded to bfloat16, so that all differences are the
optimizer's arithmetic. Errors are relative to the distance travelled since the start.
*Schedules* are compared with their formula over the last steps of the run, relative to
the rate that is left.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import optax_wsd

from .programs import print_row, print_table, versions

CHECKS = [10**4, 10**5]
DECAYS = [0.999, 0.9999, 0.99999]
DTYPES = [jnp.float32, jnp.bfloat16]
AVERAGED, TRAINED = 16, 64  # numbers in the params

# From the samples, or gradients, and the start to the values at every check.
Values = Iterator[np.ndarray]


def scanned(update: Callable[..., Any], carry: Any, inputs: np.ndarray) -> Iterator:
    """The carries of a scan over the inputs, after each number of steps in CHECKS."""

    @jax.jit
    def run(carry, inputs):
        return jax.lax.scan(lambda c, x: (update(c, x), None), carry, inputs)[0]

    for first, last in zip([0, *CHECKS], CHECKS, strict=False):
        carry = run(carry, inputs[first:last])
        yield carry


def as_float64(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


# Averages of samples p_t with a decay.


def noisy_weights(dtype) -> np.ndarray:
    """Weights of about 1 that move by about 1, slowly, with noise."""
    rng = np.random.default_rng(0)
    start, way = rng.normal(size=(2, AVERAGED))
    progress = -np.expm1(-np.arange(CHECKS[-1]) / 3e4)
    noise = 0.02 * rng.normal(size=(CHECKS[-1], AVERAGED))
    return np.asarray(jnp.asarray(start + progress[:, None] * way + noise, dtype))


def exact_average(samples: np.ndarray, decay: float, debiased: bool) -> Values:
    """The average in float64; not debiased, it starts from the first sample."""
    average = as_float64(samples[0])
    for t, sample in enumerate(as_float64(samples), 1):
        weight = (1 - decay) / (-np.expm1(t * np.log(decay)) if debiased else 1)
        average = average + weight * (sample - average)
        if t in CHECKS:
            yield average


def ours(samples, decay) -> Values:
    tx = optax_wsd.params_ema(decay)

    def update(state, params):
        return tx.update(jnp.zeros_like(params), state, params)[1]

    wide = jnp.asarray(samples[0], jnp.float32)  # read before it is rounded again
    for state in scanned(update, tx.init(samples[0]), samples):
        yield as_float64(optax_wsd.eval_params(state, wide))


def optax_ema(samples, decay) -> Values:
    tx = optax.ema(decay)
    start = tx.init(samples[0]), jnp.asarray(samples[0])
    for _, average in scanned(lambda c, x: tx.update(x, c[0])[::-1], start, samples):
        yield as_float64(average)


def incremental_update(samples, decay) -> Values:
    def update(average, params):
        return optax.incremental_update(params, average, 1 - decay)

    yield from map(as_float64, scanned(update, jnp.asarray(samples[0]), samples))


def nnx_ema(samples, decay) -> Values:
    def update(average, params):
        ema = nnx.EMA({"p": nnx.Param(average)}, decay)
        ema.update({"p": nnx.Param(params)})
        return ema.params["p"][...]

    yield from map(as_float64, scanned(update, jnp.asarray(samples[0]), samples))


def torch_ema(samples, decay) -> Values:
    import torch  # pyright: ignore[reportMissingImports]

    average_of = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    rows = as_torch(samples)
    average = rows[0].clone()
    for t, row in enumerate(rows, 1):
        average_of([average], [row], t)
        if t in CHECKS:
            yield average.double().numpy()


def as_torch(rows: np.ndarray):
    """The rows as a tensor of their dtype; both kinds fit into float32."""
    import torch  # pyright: ignore[reportMissingImports]

    dtype = torch.float32 if rows.dtype == np.float32 else torch.bfloat16
    return torch.from_numpy(np.asarray(rows, np.float32)).to(dtype)


AVERAGES = {
    "`params_ema`": (ours, True),
    "`optax.ema`": (optax_ema, True),
    "`optax.incremental_update`": (incremental_update, False),
    "`flax.nnx.EMA`": (nnx_ema, False),
    "`torch.optim.swa_utils` EMA": (torch_ema, False),
}


def averages() -> None:
    columns = [f"{decay}, {steps:,}" for decay in DECAYS for steps in CHECKS]
    print_table(["average", "params", *columns], [])
    for dtype in DTYPES:
        samples = noisy_weights(dtype)
        start = as_float64(samples[0])
        for name, (average, debiased) in AVERAGES.items():
            row = []
            for decay in DECAYS:
                exact = exact_average(samples, decay, debiased)
                row += errors(average(samples, decay), exact, start)
            print_row([name, dtype.dtype.name, *row])


def errors(values: Values, exact: Values, start: np.ndarray) -> list[str]:
    """The errors relative to the way from the start, or why there are none."""
    try:
        pairs = list(zip(values, exact, strict=True))
    except ImportError:
        return ["not installed"] * len(CHECKS)
    norm = np.linalg.norm
    return [f"{norm(x - true) / norm(true - start):.1e}" for x, true in pairs]


# Schedule-free AdamW on a noisy quadratic.

LEARNING_RATE, B1, B2, EPS = 2.5e-3, 0.9, 0.999, 1e-8


def float64_run() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The start, the gradients at y, and x at every check; x, y and z explicit."""
    rng = np.random.default_rng(1)
    curvature, best = np.geomspace(0.01, 1, TRAINED), rng.normal(size=TRAINED)
    start = as_float64(jnp.asarray(best + rng.normal(size=TRAINED), jnp.bfloat16))
    x = y = z = start
    v, gradients, found = np.zeros(TRAINED), [], []
    for t in range(1, CHECKS[-1] + 1):
        g = curvature * (y - best) + 0.1 * rng.normal(size=TRAINED)
        g = g.astype(jnp.bfloat16)
        gradients.append(g)
        g = as_float64(g)
        v = B2 * v + (1 - B2) * g**2
        z = z - LEARNING_RATE * g / (np.sqrt(v / (1 - B2**t)) + EPS)
        x = x + (z - x) / t
        y = B1 * x + (1 - B1) * z
        if t in CHECKS:
            found.append(x)
    return start, np.array(gradients), found


def trained(tx, read: Callable[[Any, Any], Any], start, gradients) -> Values:
    def update(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for params, state in scanned(update, (start, tx.init(start)), gradients):
        yield as_float64(read(state, params))


def our_schedule_free(start, gradients) -> Values:
    def read(state, params):
        return optax_wsd.eval_params(state, params.astype(jnp.float32))

    tx = optax_wsd.schedule_free_adamw(LEARNING_RATE)
    yield from trained(tx, read, start, gradients)


def contrib(start, gradients, state_dtype=None) -> Values:
    tx = optax.contrib.schedule_free_adamw(LEARNING_RATE, state_dtype=state_dtype)
    read = optax.contrib.schedule_free_eval_params
    yield from trained(tx, read, start, gradients)


def contrib_float32(start, gradients) -> Values:
    yield from contrib(start, gradients, jnp.float32)


def torch_schedule_free(start, gradients) -> Values:
    import schedulefree  # pyright: ignore[reportMissingImports]

    rows = as_torch(gradients)
    for steps in CHECKS:  # anew each time: eval() and train() round
        param = as_torch(np.asarray(start)).clone().requires_grad_()
        optimizer = schedulefree.AdamWScheduleFree([param], lr=LEARNING_RATE)
        optimizer.train()
        for row in rows[:steps]:
            param.grad = row.clone()
            optimizer.step()
        optimizer.eval()
        yield param.detach().double().numpy()


SCHEDULE_FREE = {
    "`schedule_free_adamw`": our_schedule_free,
    "`optax.contrib.schedule_free_adamw`": contrib,
    "the same, `state_dtype=float32`": contrib_float32,
    "`schedulefree.AdamWScheduleFree` (PyTorch)": torch_schedule_free,
}


def schedule_free() -> None:
    start, gradients, exact = float64_run()
    print_table(["optimizer", "params", *(f"{n:,} steps" for n in CHECKS)], [])
    for dtype in DTYPES:
        given = np.asarray(jnp.asarray(gradients, dtype))
        for name, run in SCHEDULE_FREE.items():
            values = run(jnp.asarray(start, dtype), given)
            print_row([name, dtype.dtype.name, *errors(values, iter(exact), start)])


# Schedules, that fall to 0 over a fifth of the run or over the whole run.

TOTALS = [10**5, 10**6, 10**8, 2 * 10**9]


def wsd(total: int) -> optax.Schedule:
    options = {"warmup_steps": 0, "cooldown_steps": total // 5}
    return optax_wsd.wsd_schedule(1.0, total, **options, shape=optax_wsd.shapes.linear)


def wsd_cosine(total: int) -> optax.Schedule:
    options = {"warmup_steps": 0, "cooldown_steps": total}
    return optax_wsd.wsd_schedule(1.0, total, **options, shape=optax_wsd.shapes.cosine)


def optax_linear(total: int) -> optax.Schedule:
    return optax.linear_schedule(1.0, 0.0, total // 5, total - total // 5)


def linear(left, total):
    return left / (total // 5)


def cosine(left, total):
    return np.sin(np.pi / 2 * left / total) ** 2


SCHEDULES = {
    "linear cooldown of 20 %, `wsd_schedule`": (wsd, linear),
    "linear cooldown of 20 %, `optax.linear_schedule`": (optax_linear, linear),
    "cosine, `wsd_schedule`": (wsd_cosine, cosine),
    "cosine, `optax.cosine_decay_schedule`": (
        lambda total: optax.cosine_decay_schedule(1.0, total),
        cosine,
    ),
}


def schedules() -> None:
    rows = []
    left = np.arange(1000, 0, -1)
    for name, (make, formula) in SCHEDULES.items():
        row = []
        for total in TOTALS:
            steps = jnp.asarray(total - left, jnp.int32)
            rates, exact = jax.jit(make(total))(steps), formula(left, total)
            row.append(f"{np.max(np.abs(as_float64(rates) - exact) / exact):.1e}")
        rows.append([name, *row])
    print_table(["schedule", *(f"{total:,} steps" for total in TOTALS)], rows)


def main() -> None:
    """Prints the three tables."""
    print(versions("flax", "torch", "schedulefree"))
    for table in (averages, schedule_free, schedules):
        print(f"\n{table.__name__.replace('_', '-').capitalize()}\n", flush=True)
        table()


if __name__ == "__main__":
    tyro.cli(main)
