"""Figures of compiled programs, for this machine or accelerators that are not here."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jaxlib

# Accelerators, each with topologies by their number of chips.
TOPOLOGIES = {
    "v5e": {4: "v5e:2x2", 16: "v5e:4x4", 256: "v5e:16x16"},
    "v6e": {4: "v6e:2x2", 16: "v6e:4x4", 256: "v6e:16x16"},
    "v5p": {4: "v5p:2x2x1", 16: "v5p:2x2x4", 256: "v5p:8x8x4"},
    "h100": {8: "1x1x8", 16: "1x2x8", 256: "1x32x8"},
}
# What XLA asks of an H100 (SXM): openxla/xla, tools/hlo_opt/gpu_specs, Apache-2.0.
H100 = """
gpu_device_info {
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  l2_cache_size: 52428800
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# A collective beside other work is in the text in several pieces of one channel.
COLLECTIVES = re.compile(
    r"= (\S+|\(.*?\)) "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\(.*?channel_id=(\d+)"
)
ARRAYS = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")
COMPUTATION = re.compile(r"(?:ENTRY )?%(\S+) \(.*\{$")
KERNEL = re.compile(r"%(\S+) = (\S+|\(.*?\)) (?:fusion|copy|custom-call)\(")


@dataclasses.dataclass
class Figures:
    """What XLA says of a program, on one device."""

    flops: float
    bytes_accessed: float
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int  # arguments, outputs that are not arguments, temporaries
    collectives: Counter[str]  # arrays that go through each kind, however combined
    collective_bytes: int  # of what comes out of them
    kernels: int  # in the text, once where one is in a loop; 0 if it is unreadable
    copied_bytes: int  # of the arrays over 1 MiB that kernels only copy


def figures(compiled: Any) -> Figures:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if not cost:  # a GPU's compiler does not answer
        (module,) = compiled.runtime_executable().hlo_modules()
        client = jax.devices("cpu")[0].client
        cost = jaxlib._jax.hlo_module_cost_analysis(client, module)  # pyright: ignore
    arguments = memory.argument_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # as of some for v6e: jaxlib cannot read them
        text = ""
    collectives, kernels = list(_collectives(text)), list(_kernels(text))
    copied = [size for name, size in kernels if "copy" in name and size > 2**20]
    return Figures(
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost["bytes accessed"],
        argument_bytes=arguments,
        temporary_bytes=temporaries,
        peak_bytes=arguments + fresh_outputs + temporaries,
        collectives=Counter(kind for kind, _ in collectives),
        collective_bytes=sum(size for _, size in collectives),
        kernels=len(kernels),
        copied_bytes=sum(copied),
    )


def _collectives(program: str):
    """The kind and bytes of each array that a program's collectives bring."""
    found = {
        (kind, channel, tuple(ARRAYS.findall(re.sub(r"\{[^}]*\}", "", result))))
        for result, kind, channel in COLLECTIVES.findall(program)
    }
    for kind, _, arrays in found:
        for array in arrays:
            yield kind, _size(array)


def _kernels(program: str):
    """The name of each kernel and the bytes of what comes out of it."""
    fused = set(re.findall(r"(?:calls|to_apply)=%([^\s,]+)", program))
    computation = ""
    for line in program.splitlines():
        if found := COMPUTATION.match(line):
            computation = found[1]
        elif computation not in fused and (found := KERNEL.search(line)):
            yield found[1], sum(map(_size, ARRAYS.findall(found[2])))


def _size(array: tuple[str, str]) -> int:
    bits, shape = array
    return int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)


def target_devices(target: str, chips: int) -> list[Any]:
    """Devices to compile for: the first of the smallest topology that has so many."""
    from jax.experimental import topologies

    name = next(name for n, name in TOPOLOGIES[target].items() if n >= chips)
    if target == "h100":
        # With a GPU's plugin and no GPU, the default backend would fail.
        jax.config.update("jax_platforms", "cpu")
        options = {"platform": "cuda", "target_config": H100, "topology": name}
    else:
        # Without a TPU, libtpu asks the network what machine it is on; this answers.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_WORKER_ID", "0")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened
        options = {"platform": "tpu", "topology_name": name}
    return list(topologies.get_topology_desc(**options).devices)[:chips]


def versions(*packages: str) -> str:
    """One line for a table's caption: device, Python, and the packages in use."""
    device = jax.devices()[0].device_kind
    if device == "cpu":
        device = f"CPU ({_cpu_name()}, {os.cpu_count()} cores)"
    found = [f"Python {platform.python_version()}"]
    for package in ("jax", "optax", *packages):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"{device}; {', '.join(found)}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_row(header)
    print("|" + "---|" * len(header))
    for row in rows:
        print_row(row)


def print_row(row: Sequence[str]) -> None:
    print("| " + " | ".join(row) + " |", flush=True)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = {
                line.split(":")[1].strip() for line in lines if "model name" in line
            }
        return ", ".join(sorted(names)) or platform.machine()
    except OSError:
        return platform.machine()
