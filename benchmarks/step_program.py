"""A GPT-2-small train step, compiled for TPUs or H100s without one, and its roofline.

    pip install libtpu
    python -m benchmarks.step_program
    pip install jax-cuda13-plugin jax-cuda13-pjrt nvidia-cudnn-cu13  # of jax's version
    python -m benchmarks.step_program --target h100 --layouts 1 1 1 8

The model is that of `examples/gpt` with GPT-2-small's width, depth and heads, in
bfloat16 with float32 params. Each row is one program: whether it fits, what it needs of
each chip, and how long that would take at the peaks of the chip: flops, bytes and
collectives, each alone. MFU is the model's flops over the longest of the
three: an estimate from above, nothing was run.
"""

import math
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optax_wsd
from examples.gpt import model
from examples.gpt.config import ModelConfig
from examples.gpt.trainer import PEAK_FLOPS

from .programs import figures, print_row, print_table, target_devices, versions


class Peak(NamedTuple):
    """What a chip can do at most, beside its flops, by its maker's page."""

    memory: float  # bytes
    bandwidth: float  # bytes moved in a second
    link: float  # bytes to other chips in a second, in one direction


# By JAX's name of the device, from the pages that PEAK_FLOPS names.
PEAKS = {
    "TPU v5 lite": Peak(16e9, 819e9, 200e9),
    "TPU v5": Peak(95e9, 2765e9, 600e9),
    "TPU v6 lite": Peak(32e9, 1638e9, 400e9),
    "NVIDIA A100-SXM4-80GB": Peak(80e9, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Peak(80e9, 3350e9, 450e9),
}
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
    """As in the example, over the mesh's last axis: the first that divides is split."""
    parts = mesh.shape["fsdp"]
    axis = next((i for i in range(x.ndim) if x.shape[i] % parts == 0), None)
    spec = [] if axis is None else [*[None] * axis, "fsdp"]
    return NamedSharding(mesh, PartitionSpec(*spec))


def compile_step(config: ModelConfig, tx, mesh: Mesh, *, batch, length, **how):
    def sharded(tree):
        return jax.tree.map(lambda x: x.update(sharding=sharding_of(x, mesh)), tree)

    params = sharded(jax.eval_shape(lambda: model.init_params(config, 0)))
    state = sharded(jax.eval_shape(tx.init, params))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    tokens = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32, sharding=rows)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(
        train_step(model.graph(config, **how), tx),
        donate_argnums=(0, 1),
        out_shardings=(*shardings, NamedSharding(mesh, PartitionSpec())),
    )
    with jax.set_mesh(mesh):
        return step.lower(params, state, tokens).compile()


def main(
    target: Literal["v5e", "v6e", "v5p", "h100"] = "v5e",
    layouts: tuple[tuple[int, int], ...] = ((1, 4), (1, 16), (4, 4), (16, 16)),
    batch_per_chip: int = 8,
    length: int = 1024,
    vocabulary: int = 256,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    attention: Literal["auto", "written_out"] = "auto",
    remat: bool = False,
    optimizers: tuple[str, ...] = (),
) -> None:
    """Prints the table.

    Args:
        target: The accelerator.
        layouts: Chips over which only the batch is split, times chips over which
            params and state are split too.
        batch_per_chip: Sequences in a step on each chip.
        length: Tokens in a sequence.
        vocabulary: Tokens there are; 256 are bytes.
        width: Width of the model.
        depth: Its blocks.
        heads: Heads in each.
        attention: The accelerator's kernel, or none.
        remat: Recompute activations in the backward pass.
        optimizers: Names of those to compile with; default: all.
    """
    config = ModelConfig(
        vocabulary=vocabulary,
        width=width,
        depth=depth,
        heads=heads,
        compute_dtype="bfloat16",
    )
    kernel = "cudnn" if target == "h100" else "splash"
    how = {"attention": kernel if attention == "auto" else attention, "remat": remat}
    for layout in layouts:
        number = math.prod(layout)
        devices = np.array(target_devices(target, number)).reshape(layout)
        mesh = Mesh(devices, ("data", "fsdp"))
        if layout == layouts[0]:
            print(versions("flax", "libtpu", "jax-cuda13-plugin"))
            print_table(HEADER.split(","), [])
        for name in optimizers or OPTIMIZERS:
            rows = {"batch": batch_per_chip * number, "length": length}
            cells = compiled_cells(config, OPTIMIZERS[name](), mesh, **rows, **how)
            print_row([f"{number}", "{} x {}".format(*layout), name, *cells])


HEADER = (
    "chips,data x fsdp,optimizer,fits,peak GiB,temporary GiB,state MiB,Tflop,GB,"
    "arrays in collectives,MiB,kernels,copied MiB,ms: flops,bytes,links,MFU below"
)


def compiled_cells(config, tx, mesh: Mesh, *, batch, length, **how) -> list[str]:
    try:
        compiled = compile_step(config, tx, mesh, batch=batch, length=length, **how)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+)G", str(error))
        return ["no", used[1] if used else "", *[""] * 12]
    kind = mesh.devices.flat[0].device_kind
    cost, peak, peak_flops = figures(compiled), PEAKS[kind], PEAK_FLOPS[kind]
    params = jax.eval_shape(lambda: model.init_params(config, 0))
    useful = model.step_flops(config, params, batch, length) / mesh.size
    # The compiler does not count what is inside of an attention kernel.
    times = (
        max(useful, cost.flops) / peak_flops,
        cost.bytes_accessed / peak.bandwidth,
        cost.collective_bytes / peak.link,
    )
    in_the_text = (
        ", ".join(f"{n} {kind}" for kind, n in sorted(cost.collectives.items())),
        f"{cost.collective_bytes / 2**20:.0f}",
        f"{cost.kernels}",
        f"{cost.copied_bytes / 2**20:.0f}",
    )
    return [
        "yes" if cost.peak_bytes < peak.memory else "no",
        f"{cost.peak_bytes / 2**30:.2f}",
        f"{cost.temporary_bytes / 2**30:.2f}",
        f"{cost.argument_bytes / 2**20:.0f}",
        f"{cost.flops / 1e12:.2f}",
        f"{cost.bytes_accessed / 1e9:.1f}",
        *(in_the_text if cost.kernels else "????"),
        *(f"{1e3 * time:.1f}" for time in times),
        f"{useful / peak_flops / max(times):.0%}",
    ]


if __name__ == "__main__":
    tyro.cli(main)
