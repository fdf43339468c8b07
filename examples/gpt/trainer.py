"""The compiled functions of training, on a mesh of all devices."""

import ctypes
import functools
import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    use_abstract_mesh,
)

from . import model, optimizer
from .config import Config, LoopConfig, ModelConfig, OptimizerConfig, require
from .peaks import peak_of

State = dict[str, Any]  # step, params, opt_state


class Trainer:
    """The compiled functions of a model and an optimizer, on a mesh of all devices.

    The peak rate is an argument of the step and the cooldown is part of its state, so
    one program serves a trunk and all its branches.
    """

    def __init__(
        self, model_config: ModelConfig, config: OptimizerConfig, loop: LoopConfig
    ):
        devices = jax.devices()[: loop.devices or None]
        self.mesh = jax.make_mesh(
            (len(devices),), ("data",), (AxisType.Auto,), devices=devices
        )
        self.config, self.accumulate = config, loop.accumulate
        self.graphdef = model.graph(
            model_config, remat=loop.remat, attention=loop.attention
        )
        abstract = jax.eval_shape(functools.partial(self._init, model_config), 0)
        self.shardings = jax.tree.map(self._shard_first_axis, abstract)
        self.abstract: State = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.abstract))
        _require_memory("Params and optimizer state need", size / len(devices), devices)
        self.init = jax.jit(
            functools.partial(self._init, model_config), out_shardings=self.shardings
        )
        self.step = jax.jit(
            self._step, donate_argnums=0, out_shardings=(self.shardings, None)
        )
        self.compiled_step = functools.cache(self._compile)
        self.weights = jax.jit(
            functools.partial(optimizer.weights_to_evaluate, config),
            static_argnames="which",
        )
        self.evaluate = _shared_evaluation(model_config, loop.attention, self.mesh)

    def place(self, rows: np.ndarray, axis: int = 0) -> jax.Array:
        """This process's rows of a batch as a part of the global array."""
        spec = PartitionSpec(*[None] * axis, "data")
        return jax.make_array_from_process_local_data(
            NamedSharding(self.mesh, spec), rows
        )

    def least_seconds(self, config: Config) -> float:
        """A step at the peak of these devices; 0 where that is not known."""
        batch, length = config.data.batch_size, config.data.sequence_length
        flops = model.step_flops(config.model, self.abstract["params"], batch, length)
        peak = peak_of(self.mesh.devices.flat[0])
        return flops / peak.flops / self.mesh.size if peak else 0.0

    def _init(self, model_config: ModelConfig, seed) -> State:
        params = model.init_params(model_config, seed)
        opt_state = optimizer.make_optimizer(self.config, 0.0).init(params)
        step = jnp.zeros([], jnp.int32)
        return {"step": step, "params": params, "opt_state": opt_state}

    def _compile(self, *shape: int):
        """The step for batches of a shape, and its bytes on each device."""
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        peak = jax.ShapeDtypeStruct((), jnp.float32)
        step = self.step.lower(self.abstract, tokens, peak).compile()
        memory: Any = step.memory_analysis()
        size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        _require_memory("Its step needs", size, list(self.mesh.devices.flat))
        return step, size

    def _step(self, state: State, tokens_BxM, peak):
        tx = optimizer.make_optimizer(self.config, peak)
        params, opt_state = state["params"], state["opt_state"]

        def gradient(tokens):
            with use_abstract_mesh(self.mesh.abstract_mesh):
                return jax.value_and_grad(
                    lambda params: model.next_byte_loss(self.graphdef, params, tokens)
                )(params)

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

    def _shard_first_axis(self, x) -> NamedSharding:
        """FSDP: the first axis that the devices divide is split among them.

        Gradients come summed and split by their first axis; on GPUs, state that is
        split by another is copied at each step.
        """
        devices = self.mesh.size
        axes = [i for i in range(x.ndim) if x.shape[i] and x.shape[i] % devices == 0]
        spec = [*[None] * axes[0], "data"] if axes else []
        return NamedSharding(self.mesh, PartitionSpec(*spec))


@functools.lru_cache
def _shared_evaluation(model_config: ModelConfig, attention: str, mesh: Mesh):
    """The compiled mean loss of weights over batches, for all runs of a model."""
    graphdef = model.graph(model_config, attention=attention)

    def evaluate(params, tokens_NxBxM):
        batch_loss = functools.partial(model.next_byte_loss, graphdef, params)
        with use_abstract_mesh(mesh.abstract_mesh):
            return jax.lax.map(batch_loss, tokens_NxBxM).mean()

    return jax.jit(evaluate)


def make_trainer(config: Config) -> Trainer:
    """The trainer of a config, shared by all that differ in rates and lengths only."""
    optimizer_config = replace(config.optimizer, peak=1.0, cooldown_steps=0)
    loop = LoopConfig(
        devices=config.loop.devices,
        remat=config.loop.remat,
        accumulate=config.loop.accumulate,
        attention=config.loop.attention,
    )
    trainer = _shared_trainer(config.model, optimizer_config, loop)
    require(
        config.data.batch_size % trainer.mesh.size == 0,
        f"--batch-size ({config.data.batch_size}) must be a multiple of the number of "
        f"devices ({trainer.mesh.size}).",
    )
    require(
        trainer.mesh.size == jax.device_count() or jax.process_count() == 1,
        "--devices is for one process: several use all of theirs.",
    )
    return trainer


_shared_trainer = functools.lru_cache(Trainer)


def _require_memory(what: str, each: float, devices: list[Any]) -> None:
    """Refuses what takes more bytes on each device than there are.

    XLA's CPU client does not come back from an allocation that fails.
    """
    here = [d for d in devices if d in jax.local_devices()]
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in here]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    need, there = each * len(here), sum(limits) or machine
    require(
        need < there,
        f"{what} {need / 2**30:,.0f} GiB, and "
        f"there are {there / 2**30:,.0f}: lower --width, --depth or --batch-size, or "
        "take --accumulate or --remat.",
    )


def check_devices(loop: LoopConfig) -> None:
    """Refuses more devices than there are; a run begun on more of them goes on."""
    there = jax.device_count()
    require(loop.devices <= there, f"--devices {loop.devices}: there are {there}.")


def keep_freed_memory() -> None:
    """Lets memory be used again, where glibc would give it back and fetch it anew.

    On a CPU XLA frees its buffers after each step, and every step of the default model
    takes 35,000 page faults, a third of its processor time; with this a tenth of them.
    To be called before JAX has started its threads, each of which gets an arena.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mmap_max, trim_threshold, arena_max = -4, -1, -8  # of malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(arena_max, 1)
