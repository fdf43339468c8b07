"""A GPT-2-small train step, compiled for 4, 16 and 256 TPU chips without a TPU.

    pip install libtpu
    python -m benchmarks.tpu_program

The model is that of `examples/gpt` with GPT-2-small's width, depth and heads, in
bfloat16 with float32 params; its vocabulary is bytes. Each row is one program: whether
it fits, what it needs of each chip, and its collectives.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optax_wsd
from examples.gpt import model
from examples.gpt.config import ModelConfig

from .programs import figures, print_row, print_table, tpu_devices, versions

RATE = 1e-3
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": lambda: optax.adamw(RATE),
    "adamw, cooldown": lambda: optax.chain(
        optax.adamw(RATE), optax_wsd.scale_by_cooldown()
    ),
    "adamw, ema": lambda: optax.chain(optax.adamw(RATE), optax_wsd.params_ema(0.999)),
    "adamw, ema every 10": lambda: optax.chain(
        optax.adamw(RATE), optax_wsd.params_ema(0.99, every=10)
    ),
    "schedule-free adamw": lambda: optax_wsd.schedule_free_adamw(
        RATE, warmup_steps=100
    ),
}


def train_step(graphdef, tx):
    def step(params, state, tokens_BxM):
        loss, grads = jax.value_and_grad(
            lambda params: model.next_byte_loss(graphdef, params, tokens_BxM)
        )(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def sharding_of(x, mesh: Mesh) -> NamedSharding:
    """The largest axis that the mesh's last one divides is split over it."""
    parts = mesh.shape["fsdp"]
    spec: list[str | None] = [None] * x.ndim
    axes = [i for i in range(x.ndim) if x.shape[i] % parts == 0]
    if axes:
        spec[max(axes, key=lambda i: x.shape[i])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))


def compile_step(
    config: ModelConfig, tx, mesh: Mesh, *, batch: int, length: int, remat: bool
):
    def sharded(tree):
        return jax.tree.map(lambda x: x.update(sharding=sharding_of(x, mesh)), tree)

    params = sharded(jax.eval_shape(lambda: model.init_params(config, 0)))
    state = sharded(jax.eval_shape(tx.init, params))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    tokens = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32, sharding=rows)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(
        train_step(model.graph(config, remat), tx),
        donate_argnums=(0, 1),
        out_shardings=(*shardings, NamedSharding(mesh, PartitionSpec())),
    )
    with jax.set_mesh(mesh):
        return step.lower(params, state, tokens).compile()


def main(
    generation: str = "v5e",
    layouts: tuple[tuple[int, int], ...] = ((1, 4), (1, 16), (4, 4), (16, 16)),
    batch_per_chip: int = 8,
    length: int = 1024,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    remat: bool = False,
    optimizers: tuple[str, ...] = (),
) -> None:
    """Prints the table.

    Args:
        generation: v5e, v6e or v5p.
        layouts: Chips over which only the batch is split, times chips over which
            params and state are split too.
        batch_per_chip: Sequences in a step on each chip.
        length: Bytes in a sequence.
        width: Width of the model.
        depth: Its blocks.
        heads: Heads in each.
        remat: Recompute activations in the backward pass.
        optimizers: Names of those to compile with; default: all.
    """
    config = ModelConfig(
        width=width, depth=depth, heads=heads, compute_dtype="bfloat16"
    )
    print(versions("flax", "libtpu"))
    header = (
        "chips,data x fsdp,optimizer,fits,GiB,state MiB,Tflop,arrays in collectives,MiB"
    )
    print_table(header.split(","), [])
    for layout in layouts:
        number = math.prod(layout)
        devices = np.array(tpu_devices(generation, number)).reshape(layout)
        mesh = Mesh(devices, ("data", "fsdp"))
        for name in optimizers or OPTIMIZERS:
            cells = compiled_cells(
                config,
                OPTIMIZERS[name](),
                mesh,
                batch=batch_per_chip * number,
                length=length,
                remat=remat,
            )
            print_row([f"{number}", "{} x {}".format(*layout), name, *cells])


def compiled_cells(config, tx, mesh: Mesh, **how) -> list[str]:
    try:
        compiled = compile_step(config, tx, mesh, **how)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return ["no", "", "", "", "", ""]
    cost = figures(compiled)
    return [
        "yes",
        f"{cost.peak_bytes / 2**30:.2f}",
        f"{cost.argument_bytes / 2**20:.0f}",
        f"{cost.flops / 1e12:.2f}",
        ", ".join(f"{n} {kind}" for kind, n in sorted(cost.collectives.items())),
        f"{cost.collective_bytes / 2**20:.0f}",
    ]


if __name__ == "__main__":
    tyro.cli(main)
