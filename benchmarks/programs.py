"""Figures of compiled programs, for this machine or for TPUs that are not here."""

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

# Generations of TPU, each with its smallest topology and one of 256 chips.
TPUS = {
    "v5e": {4: "v5e:2x2", 16: "v5e:4x4", 256: "v5e:16x16"},
    "v6e": {4: "v6e:2x2", 16: "v6e:4x4", 256: "v6e:16x16"},
    "v5p": {4: "v5p:2x2x1", 16: "v5p:2x2x4", 256: "v5p:8x8x4"},
}
# A collective beside other work is in the text in several pieces of one channel.
COLLECTIVES = re.compile(
    r"= (\S+|\(.*?\)) "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\(.*?channel_id=(\d+)"
)
ARRAYS = re.compile(r"[a-z]+(\d+)\[([\d,]*)\]")


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


def figures(compiled: Any) -> Figures:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    arguments = memory.argument_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    fresh_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    collectives = list(_collectives(compiled.as_text()))
    return Figures(
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost["bytes accessed"],
        argument_bytes=arguments,
        temporary_bytes=temporaries,
        peak_bytes=arguments + fresh_outputs + temporaries,
        collectives=Counter(kind for kind, _ in collectives),
        collective_bytes=sum(size for _, size in collectives),
    )


def _collectives(program: str):
    """The kind and bytes of each array that a program's collectives bring."""
    found = {
        (kind, channel, tuple(ARRAYS.findall(re.sub(r"\{[^}]*\}", "", result))))
        for result, kind, channel in COLLECTIVES.findall(program)
    }
    for kind, _, arrays in found:
        for bits, shape in arrays:
            numbers = math.prod(int(n) for n in shape.split(",") if n)
            yield kind, int(bits) // 8 * numbers


def tpu_devices(generation: str, chips: int) -> list[Any]:
    """Devices to compile for; one chip is the first of the smallest topology."""
    # Without a TPU, libtpu asks the network what machine it is on; this answers.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened
    from jax.experimental import topologies

    name = TPUS[generation][max(chips, 4)]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return list(topology.devices)[:chips]


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
