"""What accelerators can do at most, by their makers' pages: for estimates."""

from typing import Any, NamedTuple


class Peak(NamedTuple):
    """Of one chip: bytes of memory, and a second flops in bfloat16 and bytes moved."""

    memory: float
    flops: float
    bandwidth: float
    link: float  # to other chips, in one direction


# By JAX's name of the device. docs.cloud.google.com/tpu/docs (v5e, v5p, v6e) and
# NVIDIA's data sheets of the A100 and H100 (SXM; without sparsity).
PEAKS = {
    "TPU v5 lite": Peak(16e9, 197e12, 819e9, 200e9),
    "TPU v5": Peak(95e9, 459e12, 2765e9, 600e9),
    "TPU v6 lite": Peak(32e9, 918e12, 1638e9, 400e9),
    "NVIDIA A100-SXM4-80GB": Peak(80e9, 312e12, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Peak(80e9, 989e12, 3350e9, 450e9),
}


def peak_of(device: Any) -> Peak | None:
    return PEAKS.get(device.device_kind)
