"""The compiled functions of training, on a mesh of all devices."""

import ctypes
import functools
import math
import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh

from . import model, optimizer
from .config import Config, LoopConfig, ModelConfig, OptimizerConfig, require

State = dict[str, Any]  # step, params, opt_state

# The most that chips can do a second in bfloat16, by JAX's name of them, from
# docs.cloud.google.com/tpu/docs and NVIDIA's data sheets (SXM; without sparsity).
PEAK_FLOPS = {
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
}


class Trainer:
    """The programs of a trunk and all its branches: peak and cooldown are arguments."""

    def __init__(self, net: ModelConfig, config: OptimizerConfig, loop: LoopConfig):
        devices = jax.devices()[: loop.devices or None]
        self.mesh = jax.make_mesh(
            (len(devices),), ("data",), (AxisType.Auto,), devices=devices
        )
        self.config, self.accumulate = config, loop.accumulate
        self.graphdef = model.graph(net, remat=loop.remat, attention=loop.attention)
        init = functools.partial(self._init, net)
        self.abstract: State = jax.tree.map(self._sharded, jax.eval_shape(init, 0))
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.abstract))
        self._require_memory("Params and optimizer state need", size / len(devices))
        self.init = jax.jit(init, out_shardings=shardings)
        self.step = jax.jit(
            self._step, donate_argnums=0, out_shardings=(shardings, None)
        )
        self.compiled_step = functools.cache(self._compile)
        weights = functools.partial(optimizer.weights_to_evaluate, config)
        self.weights = jax.jit(weights, static_argnames="which")
        self.evaluate = functools.partial(_mean_loss, self.graphdef, self.mesh)

    def place(self, rows: np.ndarray, axis: int = 0) -> jax.Array:
        """This process's rows of a batch as a part of the global array."""
        spec = NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "data"))
        return jax.make_array_from_process_local_data(spec, rows)

    def least_seconds(self, config: Config) -> float:
        """A step at the peak of these devices; 0 where that is not known."""
        batch, length = config.data.batch_size, config.data.sequence_length
        flops = model.step_flops(config.model, self.abstract["params"], batch, length)
        peak = PEAK_FLOPS.get(self.mesh.devices.flat[0].device_kind, math.inf)
        return flops / peak / self.mesh.size

    def _init(self, net: ModelConfig, seed) -> State:
        params, step = model.init_params(net, seed), jnp.zeros([], jnp.int32)
        opt_state = optimizer.make_optimizer(self.config, 0.0).init(params)
        return {"step": step, "params": params, "opt_state": opt_state}

    def _compile(self, *shape: int):
        """The step for batches of a shape, and its bytes on each device."""
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        peak = jax.ShapeDtypeStruct((), jnp.float32)
        step = self.step.lower(self.abstract, tokens, peak).compile()
        memory: Any = step.memory_analysis()
        size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self._require_memory("Its step needs", size)
        return step, size

    def _require_memory(self, what: str, each: float) -> None:
        """Refuses too many bytes, as XLA's CPU client dies of what it cannot get."""
        here = self.mesh.local_devices
        limits = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in here]
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        need, there = each * len(here) / 2**30, (sum(limits) or machine) / 2**30
        require(
            need < there,
            f"{what} {need:,.0f} GiB, and there are {there:,.0f}: lower --width, "
            "--depth or --batch-size, or take --accumulate or --remat.",
        )

    def _step(self, state: State, tokens_BxM, peak):
        tx = optimizer.make_optimizer(self.config, peak)
        params, opt_state = state["params"], state["opt_state"]

        def gradient(tokens):
            gradient_of = jax.value_and_grad(model.next_byte_loss, argnums=1)
            with use_abstract_mesh(self.mesh.abstract_mesh):
                return gradient_of(self.graphdef, params, tokens)

        def add_gradient(total, tokens):
            return optax.tree.add(total, gradient(tokens)), None

        # Micro-batches take every k-th row, so that each device keeps its own rows.
        k = self.accumulate
        parts = tokens_BxM.reshape(-1, k, tokens_BxM.shape[1]).swapaxes(0, 1)
        total, _ = jax.lax.scan(add_gradient, gradient(parts[0]), parts[1:])
        loss, grads = optax.tree.scale(1 / k, total)
        rate = optimizer.learning_rate(self.config, peak, state)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "lr": rate}
        new = {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
        return new, metrics

    def _sharded(self, x) -> jax.ShapeDtypeStruct:
        """FSDP: the first axis that the devices divide, as gradients are, is split."""
        devices = self.mesh.size
        axes = [i for i in range(x.ndim) if x.shape[i] and x.shape[i] % devices == 0]
        spec = PartitionSpec(*[None] * axes[0], "data") if axes else PartitionSpec()
        sharding = NamedSharding(self.mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_loss(graphdef, mesh: Mesh, params, tokens_NxBxM):
    batch_loss = functools.partial(model.next_byte_loss, graphdef, params)
    with use_abstract_mesh(mesh.abstract_mesh):
        return jax.lax.map(batch_loss, tokens_NxBxM).mean()


def make_trainer(config: Config) -> Trainer:
    """The trainer of a config, shared by all that differ in rates and lengths only."""
    names = "devices", "remat", "accumulate", "attention"
    trainer = _shared_trainer(
        config.model,
        replace(config.optimizer, peak=1.0, cooldown_steps=0),
        LoopConfig(**{name: getattr(config.loop, name) for name in names}),
    )
    batch, devices = config.data.batch_size, trainer.mesh.size
    multiple = f"--batch-size ({batch}) must be a multiple of the number of devices"
    require(batch % devices == 0, f"{multiple} ({devices}).")
    is_whole = devices == jax.device_count() or jax.process_count() == 1
    require(is_whole, "--devices is for one process: several use all of theirs.")
    return trainer


_shared_trainer = functools.lru_cache(Trainer)


def check_devices(loop: LoopConfig) -> None:
    """Refuses more devices than there are; a run begun on more of them goes on."""
    there = jax.device_count()
    require(loop.devices <= there, f"--devices {loop.devices}: there are {there}.")


def keep_freed_memory() -> None:
    """Keeps glibc from giving XLA's buffers back after each step, before JAX starts.

    On a CPU a third of the default model's time goes into fetching them anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    mmap_max, trim_threshold, arena_max = -4, -1, -8  # of malloc.h
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (arena_max, 1)):
        if mallopt is not None:
            mallopt(option, value)
