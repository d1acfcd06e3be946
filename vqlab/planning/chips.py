"""Accelerators in numbers, from their makers' specifications.

Rates are peaks: FLOP/s without sparsity, bytes/s of one chip. Nothing here was measured.
"""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator, which is one device to JAX.

    Attributes:
      name: as on the command line.
      bf16: FLOP/s of matrix products of 16-bit numbers.
      default: FLOP/s of products of float32 numbers in XLA's default precision, which is one
        bfloat16 pass on a TPU and TF32 on a GPU.
      float32: FLOP/s of products of float32 numbers in precision HIGHEST.
      memory: bytes that a program can use.
      bandwidth: bytes/s of that memory.
      link: bytes/s that a chip sends to the others of its domain in a ring: for a TPU both
        directions of one axis of the torus, for a GPU one direction of all its NVLinks.
      domain: number of chips, consecutive ones, that such links connect; 0 for all.
      network: bytes/s that a chip sends beyond its domain.
      device_kinds: what `jax.Device.device_kind` says.
      dimensions: axes of the topology; 0 for a GPU.
      source: where the figures are from.
    """

    name: str
    bf16: float
    default: float
    float32: float
    memory: float
    bandwidth: float
    link: float
    domain: int
    network: float
    device_kinds: tuple[str, ...]
    dimensions: int
    source: str


def _tpu(name, tflops, memory_gib, bandwidth, ici, dimensions, device_kinds, page) -> Chip:
    """A TPU with `ici` GB/s of its links, both directions of all `2 * dimensions` ports.

    Memory is what libtpu 0.0.42's compiler leaves to a program. HIGHEST is six bfloat16 passes.
    """
    peak = tflops * 1e12
    return Chip(
        name=name,
        bf16=peak,
        default=peak,
        float32=peak / 6,
        memory=memory_gib * GIB,
        bandwidth=bandwidth * 1e9,
        link=ici * 1e9 / 2 / dimensions,
        domain=0,
        network=0.0,
        device_kinds=device_kinds,
        dimensions=dimensions,
        source=f"docs.cloud.google.com/tpu/docs/{page}",
    )


def _gpu(name, bf16, tf32, float32, memory_gb, bandwidth, nvlink, nic, device_kinds, page) -> Chip:
    """A GPU in servers of eight, with `nvlink` GB/s (both directions) and a NIC of `nic` Gbit/s."""
    return Chip(
        name=name,
        bf16=bf16 * 1e12,
        default=tf32 * 1e12,
        float32=float32 * 1e12,
        memory=memory_gb * 1e9,
        bandwidth=bandwidth * 1e9,
        link=nvlink * 1e9 / 2,
        domain=8,
        network=nic * 1e9 / 8,
        device_kinds=device_kinds,
        dimensions=0,
        source=page,
    )


# Google gives ICI as Gbit/s of a chip in one direction (v4 2400, v5e 1600, v5p 4800, v6e 3200),
# or as twice that in GB/s for both.
TPUS = (
    _tpu("v4", 275, 30.75, 1200, 600, 3, ("TPU v4",), "v4"),
    _tpu("v5e", 197, 15.75, 819, 400, 2, ("TPU v5 lite", "TPU v5e"), "v5e"),
    _tpu("v5p", 459, 95.74, 2765, 1200, 3, ("TPU v5", "TPU v5p"), "v5p"),
    _tpu("v6e", 918, 31.25, 1640, 800, 2, ("TPU v6 lite", "TPU v6e"), "v6e"),
)

# Tensor cores without sparsity, half of the sheets' figures with it; NIC as in the DGX of the chip.
GPUS = (
    _gpu(
        *("a100", 312, 156, 19.5, 80, 2039, 600, 200),
        ("NVIDIA A100-SXM4-80GB",),
        "NVIDIA A100 80GB SXM data sheet",
    ),
    _gpu(
        *("h100", 989, 494, 67, 80, 3350, 900, 400),
        ("NVIDIA H100 80GB HBM3",),
        "NVIDIA H100 SXM data sheet",
    ),
    _gpu(
        *("h200", 989, 494, 67, 141, 4800, 900, 400),
        ("NVIDIA H200",),
        "NVIDIA H200 SXM data sheet",
    ),
    _gpu(
        *("b200", 2250, 1125, 75, 180, 7700, 1800, 400),
        ("NVIDIA B200",),
        "NVIDIA HGX and DGX B200 data sheets",
    ),
)


def find_tpu(name: str) -> Chip:
    """The TPU of that name.

    Raises:
      ValueError: there is none; names the known ones.
    """
    return _find(name, TPUS, "TPU")


def find_gpu(name: str) -> Chip:
    """The GPU of that name.

    Raises:
      ValueError: there is none; names the known ones.
    """
    return _find(name, GPUS, "GPU")


def _find(name: str, chips: tuple[Chip, ...], what: str) -> Chip:
    for chip in chips:
        if chip.name == name:
            return chip
    raise ValueError(f"unknown {what} {name!r}; known: {', '.join(chip.name for chip in chips)}")


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for a CPU and for any other that is not listed."""
    for chip in TPUS + GPUS:
        if device_kind in chip.device_kinds:
            return chip
    return None
