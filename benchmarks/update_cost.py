"""What one update costs: bytes, temporaries, state, programs, time.

    python -m benchmarks.update_cost                    this machine's CPU or GPU
    python -m benchmarks.update_cost --platform tpu     programs of TPUs, without one
    python -m benchmarks.update_cost --platform gpu     of an H100, without one

The last two need what `benchmarks.step_program` installs. A cost is that of one jitted
function, gradients in, `tx.update` and `optax.apply_updates`, params and state donated,
per parameter; the floor reads the gradients and reads and writes params and state once.
Times are medians of interleaved rounds, as ratios to `optax.adamw` in the same round.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optax_wsd

from .programs import TOPOLOGIES, figures, print_table, target_devices, versions

BASE = "optax.adamw"
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """A transform; `every` where a part of its work is done in one of so many steps."""

    make: Callable[[], Any]
    every: int = 1


def adamw(*then: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.adamw(RATE, weight_decay=0.1), *then)


def hand_written_ema(decay: float) -> optax.GradientTransformation:
    """The EMA of most training loops: in float32, not debiased, every step."""

    def init(params):
        return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)

    def update(updates, state, params=None):
        assert params is not None
        params = optax.apply_updates(params, updates)
        return updates, optax.incremental_update(params, state, 1 - decay)

    return optax.GradientTransformation(init, update)


def wsd() -> optax.Schedule:
    return optax_wsd.wsd_schedule(RATE, 1000, warmup_steps=10, cooldown_steps=200)


CASES = {
    BASE: Case(adamw),
    "wsd_schedule": Case(lambda: optax.chain(optax.adamw(wsd(), weight_decay=0.1))),
    "scale_by_cooldown": Case(lambda: adamw(optax_wsd.scale_by_cooldown())),
    "an EMA by hand": Case(lambda: adamw(hand_written_ema(0.999))),
    "params_ema(0.999)": Case(lambda: adamw(optax_wsd.params_ema(0.999))),
    "params_ema(0.99999)": Case(lambda: adamw(optax_wsd.params_ema(0.99999))),
    "params_ema(0.99, every=10)": Case(
        lambda: adamw(optax_wsd.params_ema(0.99, every=10)), every=10
    ),
    "params_power_ema(6.94)": Case(lambda: adamw(optax_wsd.params_power_ema(6.94))),
    "params_swa()": Case(lambda: adamw(optax_wsd.params_swa())),
    "params_swa(every=5, window=500)": Case(
        lambda: adamw(optax_wsd.params_swa(every=5, window=500)), every=5
    ),
    "params_lawa(4, every=10)": Case(
        lambda: adamw(optax_wsd.params_lawa(4, every=10)), every=10
    ),
    "optax.contrib.schedule_free_adamw": Case(
        lambda: optax.contrib.schedule_free_adamw(
            RATE, warmup_steps=10, weight_decay=0.1
        )
    ),
    "schedule_free_adamw": Case(
        lambda: optax_wsd.schedule_free_adamw(RATE, warmup_steps=10, weight_decay=0.1)
    ),
    "schedule_free_radam": Case(lambda: optax_wsd.schedule_free_radam(RATE)),
    "schedule_free_sgd": Case(
        lambda: optax_wsd.schedule_free_sgd(RATE, warmup_steps=10, weight_decay=0.1)
    ),
}


def rivals() -> dict[str, Case]:
    """The cases, with those of rollfast if it is installed."""
    try:
        from rollfast.schedules import schedulefree  # pyright: ignore[reportMissingImports]
    except ImportError:
        return CASES
    rollfast = Case(
        lambda: schedulefree.schedule_free_adam(RATE, 1000, weight_decay=0.1)
    )
    return CASES | {"rollfast.schedule_free_adam": rollfast}


def step_of(tx: optax.GradientTransformation) -> Callable[..., Any]:
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def own_state(tx, params):
    """A state to donate; rollfast hands out one array of its own to everybody."""
    return jax.tree.map(jnp.copy, tx.init(params))


def compile_step(tx, params):
    """The program for params that may be abstract, and its bytes of state."""
    state = jax.eval_shape(tx.init, params)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    shardings = None
    if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
        state = jax.tree.map(lambda x: as_params_are(x, params), state)
        shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(step_of(tx), donate_argnums=(0, 1), out_shardings=shardings)
    return step.lower(params, state, params).compile(), size


def as_params_are(x, params):
    """A leaf of the state with its rows sharded as those of `large_params`."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    rows = [None] * (x.ndim - 2) + ["data"] if x.ndim > 1 else []
    return x.update(sharding=NamedSharding(mesh, PartitionSpec(*rows)))


def count_programs(make: Callable[[], Any]) -> int:
    """Programs of a run in which a cooldown starts, stops and starts again."""
    tx, programs = make(), 0

    def step(params, state, grads):
        nonlocal programs
        programs += 1
        return step_of(tx)(params, state, grads)

    jitted = jax.jit(step, donate_argnums=(0, 1))
    params = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
    grads, state = jax.tree.map(jnp.ones_like, params), own_state(tx, params)
    decide = [lambda s: optax_wsd.start_cooldown(s, 3), optax_wsd.stop_cooldown]
    for k in range(12):
        if k % 3 == 2 and tx_has_cooldown(state):
            state = decide[k // 3 % 2](state)
        params, state = jitted(params, state, grads)
    return programs


def tx_has_cooldown(state) -> bool:
    return optax.tree.get(state, "cooldown_count") is not None


def gpt_params(width: int, depth: int, dtype) -> dict[str, Any]:
    """Random weights in the shapes of a GPT."""
    draw = np.random.default_rng(0)

    def leaf(*shape):
        return jnp.asarray(draw.normal(0, 0.02, shape), dtype)

    def block():
        return {
            "norms": [leaf(width), leaf(width)],
            "attention": [leaf(width, 3 * width), leaf(width, width)],
            "feed_forward": [leaf(width, 4 * width), leaf(4 * width, width)],
        }

    return {"embed": leaf(2048, width), "blocks": [block() for _ in range(depth)]}


def large_params(devices, dtype) -> dict[str, Any]:
    """Two leaves of 2^26 numbers a chip: in HBM, as none fits into on-chip memory.

    The compiler keeps small leaves on the chip for a while and counts those copies as
    accessed bytes too.
    """
    mesh = Mesh(np.array(devices), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    shape = (8192 * len(devices), 8192)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name in "ab"
    }


def compiled_rows(cases: dict[str, Case], target: str, chips: int, dtype):
    """Of each case the program for a target, in bytes a parameter."""
    params = large_params(target_devices(target, chips), dtype)
    count = sum(p.size for p in params.values()) // chips
    rows, base = [], 0.0
    for name, case in cases.items():
        compiled, state_bytes = compile_step(case.make(), params)
        cost = figures(compiled)
        accessed = cost.bytes_accessed / count
        base = accessed if name == BASE else base
        state = state_bytes / count / chips
        floor = 3 * dtype.itemsize + 2 * state
        # Temporaries are copies that a program makes at every step.
        at_once = case.every == 1 or cost.temporary_bytes > 2**20
        mean = accessed if at_once else base + (accessed - base) / case.every
        rows.append(
            [
                name,
                f"{accessed:.2f}",
                f"{mean:.2f}",
                f"{floor:.0f}" if case.every == 1 else "",
                f"{cost.temporary_bytes / count:.2f}",
                f"{cost.copied_bytes / count:.2f}",
                f"{state:.2f}",
                str(cost.kernels),
                str(cost.collectives.total()),
                str(count_programs(case.make)),
            ]
        )
    return rows


class Timed:
    """A case under way: its params and state, and the seconds of each round."""

    def __init__(self, case: Case, params, grads):
        tx = case.make()
        self.grads, self.seconds = grads, []
        self.compiled, self.state_bytes = compile_step(tx, params)
        self.params, self.state = jax.tree.map(jnp.copy, params), own_state(tx, params)

    def run(self, steps: int) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            self.params, self.state = self.compiled(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))
        self.seconds.append((time.perf_counter() - start) / steps)


class TimedTorch:
    """A PyTorch optimizer on params of the same shapes."""

    def __init__(self, make: Callable[[Any], Any], params):
        import torch  # pyright: ignore[reportMissingImports]

        self.params = [
            torch.nn.Parameter(torch.tensor(np.asarray(p)))
            for p in jax.tree.leaves(params)
        ]
        for p in self.params:
            p.grad = 0.1 * p.detach()
        self.optimizer, self.seconds = make(self.params), []
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()

    def run(self, steps: int) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.step()
        self.seconds.append((time.perf_counter() - start) / steps)


def torch_rivals(params) -> dict[str, TimedTorch]:
    try:
        import schedulefree  # pyright: ignore[reportMissingImports]
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    makers = {
        "torch.optim.AdamW": torch.optim.AdamW,
        "schedulefree.AdamWScheduleFree": schedulefree.AdamWScheduleFree,
    }
    return {
        name: TimedTorch(
            lambda p, kind=kind: kind(p, lr=RATE, weight_decay=0.1), params
        )
        for name, kind in makers.items()
    }


def time_table(cases: dict[str, Case], rounds: int, width: int, depth: int, dtype):
    params = gpt_params(width, depth, dtype)
    count = sum(p.size for p in jax.tree.leaves(params))
    grads = jax.tree.map(lambda p: (0.1 * p).astype(dtype), params)
    add_one = optax.stateless(lambda g, p: jax.tree.map(jnp.ones_like, p))
    timed: dict[str, Any] = {
        name: Timed(case, params, grads)
        for name, case in {"p + 1": Case(lambda: add_one), **cases}.items()
    }
    if jax.default_backend() == "cpu" and dtype == jnp.float32:
        timed |= torch_rivals(params)
    for round_ in range(rounds + 1):
        for case in timed.values():
            case.run(steps=10)
            if round_ == 0:
                case.seconds.clear()

    def ratio(name):
        pairs = zip(timed[name].seconds, timed[BASE].seconds, strict=True)
        return np.quantile([a / b for a, b in pairs], [0.5, 0.25, 0.75])

    rows = []
    for name, case in timed.items():
        middle, low, high = ratio(name)
        row = [name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        seconds = statistics.median(case.seconds)
        row.append(f"{1e3 * seconds:.1f}")
        if isinstance(case, Timed):
            cost = figures(case.compiled)
            state = case.state_bytes / count
            floor = 2 * dtype.itemsize + 2 * state
            floor += 0 if name == "p + 1" else dtype.itemsize
            row += [f"{floor * count / seconds / 1e9:.1f}"]
            row += [f"{cost.bytes_accessed / count:.0f}", f"{floor:.0f}"]
            row += [f"{cost.temporary_bytes / count:.2f}", f"{state:.2f}"]
            row += [str(count_programs(cases[name].make)) if name in cases else ""]
        rows.append(row + [""] * (10 - len(row)))
    print(f"\n{count / 1e6:.1f} million {dtype.name} params\n")
    header = "transform,ratio,quartiles,ms,GB/s,bytes,floor,temporary,state,programs"
    print_table(header.split(","), rows)


def main(
    platform: Literal["here", "tpu", "gpu"] = "here",
    dtype: Literal["float32", "bfloat16"] = "float32",
    only: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    chips: tuple[int, ...] = (1, 256),
    rounds: int = 15,
    width: int = 384,
    depth: int = 6,
) -> None:
    """Prints a table of every transform.

    Args:
        platform: Measure on this machine, or compile for TPUs or GPUs.
        dtype: Dtype of the params and gradients.
        only: Names of the transforms to run beside optax.adamw.
        targets: Accelerators to compile for; default: all of the platform.
        chips: Numbers of chips to compile for, params sharded over all.
        rounds: Interleaved rounds of ten steps each.
        width: Width of the GPT whose shapes the params have.
        depth: Its blocks.
    """
    cases = {
        name: case
        for name, case in rivals().items()
        if not only or name in only or name == BASE
    }
    if platform == "here":
        print(versions("rollfast", "torch", "schedulefree"))
        time_table(cases, rounds, width, depth, jnp.dtype(dtype))
        return
    header = (
        "bytes,mean bytes,floor,temporary,copied,state,kernels,collectives,programs"
    )
    of_platform = [t for t in TOPOLOGIES if (t == "h100") == (platform == "gpu")]
    for target in targets or of_platform:
        for number in chips:
            table = compiled_rows(cases, target, number, jnp.dtype(dtype))
            print(versions("rollfast", "libtpu", "jax-cuda13-plugin"))
            print(f"\nAs compiled for {number} {target}; {dtype} params\n")
            print_table(["transform", *header.split(",")], table)


if __name__ == "__main__":
    tyro.cli(main)
