"""What b1 does: losses at x, y and z along schedule-free runs, and the curvature at y.

    python -m benchmarks.schedule_free    # 12 minutes on two CPU cores

The runs are those of claim 9 at one peak. The sharpness is the largest eigenvalue of
the loss's Hessian at y in the coordinates in which the optimizer's steps are plain
gradient steps: D^-1/2 H D^-1/2 with D = sqrt(v) + eps. On a quadratic of sharpness s
the iteration is stable while lr (1 - b1) s < 2. The noise is the variance of a batch's
gradient over the squared norm of the mean gradient, in the same coordinates.
"""

import concurrent.futures
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + (
    os.environ.get("XLA_FLAGS", "")
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import optax_wsd  # noqa: E402
from examples.gpt.model import graph, next_byte_loss  # noqa: E402

from .claims import engine, pictures, report  # noqa: E402
from .claims.c09_schedule_free import FREE  # noqa: E402
from .claims.settings import CPU  # noqa: E402
from .claims.study import Study  # noqa: E402
from .programs import print_table, versions  # noqa: E402

PEAK = CPU.rung(2)
STEPS = (60, 150, 300, 600, 1200, 2400)
SEEDS = 3
EPS = 1e-8  # of schedule_free_adamw
ITERATIONS = 20  # of the Lanczos method
PICTURE = Path(__file__).parent / "pictures" / "schedule_free_b1.png"


class Point(NamedTuple):
    """What is measured at a step, [...] over names, steps and seeds once stacked."""

    x: Any  # losses
    y: Any
    z: Any
    sharpness: Any
    noise: Any
    stable: Any  # the sharpness above which a quadratic diverges


def measure(numbers: Mapping[str, float], seed: int) -> list[Point]:
    """The points of one run."""
    study = Study(engine.Lab(CPU, report.results(CPU)), range(SEEDS))
    run = engine.Run(CPU, seed, **study.free(PEAK, STEPS[-1], {**numbers}))
    spec = run.optimizer
    program = engine._program(run.model, spec["name"], CPU.snapshots)
    hyper = {k: v for k, v in spec.items() if k != "name"}
    trainer = engine.Trainer(CPU, engine._origin(CPU))
    batches, look = trainer._batches(run), looker(run.model)
    probe = np.stack([batches(STEPS[-1] + i) for i in range(32)])
    _, state = trainer._resume(run, 0)

    def point(step, params, opt_state):
        x, b1 = optax_wsd.eval_params(opt_state, params), opt_state.schedule_free_b1
        z = jax.tree.map(lambda x, y: (y - b1 * x) / (1 - b1), x, params)
        at_x, at_y, at_z = (trainer._evaluate(run, p).report for p in (x, params, z))
        debias = 1 - spec["b2"] ** step
        v = jax.tree.map(lambda v: v / debias, optax.tree.get(opt_state, "adam_v"))
        stable = 2 / (PEAK * (1 - float(b1)))
        return Point(at_x, at_y, at_z, *look(params, v, probe), stable=stable)

    points = []
    for step in range(0, STEPS[-1], CPU.chunk):
        stop = step + CPU.chunk
        tokens = np.stack([batches(i) for i in range(step, stop)])
        state, _ = program(state, run.rates[step:stop], tokens, hyper)
        if stop in STEPS:
            points.append(point(stop, *state))
    return points


@functools.cache
def looker(model):
    """The sharpness, and the noise of a batch's gradient, at params."""
    graphdef = graph(model)

    def look(params, v, batches):
        scale = jax.tree.map(lambda v: (jnp.sqrt(v) + EPS) ** -0.5, v)

        def scaled(tree):
            return jax.tree.map(jnp.multiply, scale, tree)

        def gradient(params, tokens):
            return jax.grad(lambda p: next_byte_loss(graphdef, p, tokens))(params)

        tokens = batches[:8].reshape(-1, batches.shape[-1])

        def iterate(carry, _):
            u, before, beta = carry
            at, along = (params,), (scaled(u),)
            w = scaled(jax.jvp(lambda p: gradient(p, tokens), at, along)[1])
            alpha = optax.tree.vdot(u, w)
            w = jax.tree.map(lambda w, u, b: w - alpha * u - beta * b, w, u, before)
            norm = optax.tree.norm(w)
            return (optax.tree.scale(1 / norm, w), u, norm), (alpha, norm)

        u = optax.tree.random_like(jax.random.key(0), params)
        u = optax.tree.scale(1 / optax.tree.norm(u), u)
        start = u, optax.tree.zeros_like(u), 0.0
        _, (alphas, betas) = jax.lax.scan(iterate, start, length=ITERATIONS)
        lanczos = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
        sharpness = jnp.linalg.eigvalsh(lanczos)[-1]
        gradients = jax.lax.map(lambda b: scaled(gradient(params, b)), batches)
        n = len(batches)
        variance = sum(
            jnp.sum(jnp.var(g, 0, ddof=1)) for g in jax.tree.leaves(gradients)
        )
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), gradients)
        signal = optax.tree.norm(mean, squared=True) - variance / n
        return sharpness, variance / signal

    return jax.jit(look)


def main() -> None:
    keys = [(name, seed) for name in FREE for seed in range(SEEDS)]
    free = jax.devices()[: CPU.workers]
    engine._texts(CPU)  # once, before the threads

    def on_a_device(key):
        device = free.pop()
        with jax.default_device(device):
            points = measure(FREE[key[0]], key[1])
        free.append(device)
        return points

    with concurrent.futures.ThreadPoolExecutor(len(free)) as pool:
        values = np.array(list(pool.map(on_a_device, keys)), float)
    # [names, seeds, steps, quantities] -> quantities first
    found = Point(
        *values.reshape(len(FREE), SEEDS, len(STEPS), -1).transpose(3, 0, 2, 1)
    )
    print(versions("flax"))
    print(f"\nLosses at {STEPS[-1]} steps\n")
    print_table(
        ["run", "z", "y", "x"],
        [
            [
                name,
                *(f"{loss[i, -1].mean():.3f}" for loss in (found.z, found.y, found.x)),
            ]
            for i, name in enumerate(FREE)
        ],
    )
    ratio = found.sharpness / found.stable
    for title, values, form in (
        ("Sharpness at y, of the largest stable one", ratio, "{:.2f}"),
        ("Noise of a batch's gradient at y", found.noise, "{:.0f}"),
    ):
        print(f"\n{title}, by step\n")
        rows = [[n, *map(form.format, values[i].mean(1))] for i, n in enumerate(FREE)]
        print_table(["run", *map(str, STEPS)], rows)
    pictures.draw(
        "Schedule-free AdamW, 80k parameters: how near y is to diverging",
        lambda axes: draw(axes, ratio),
        PICTURE,
    )


def draw(axes, ratio) -> None:
    for name, values in zip(FREE, ratio, strict=True):
        axes.plot(STEPS, values.mean(1), "o-", label=name)
    axes.axhline(1, color="black", ls="--", lw=1, label="the largest stable one")
    axes.set(xscale="log", xlabel="step", ylabel="sharpness, of the largest stable one")
    axes.minorticks_off()
    axes.set_xticks(STEPS, list(map(str, STEPS)))


if __name__ == "__main__":
    main()
