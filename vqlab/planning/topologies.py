"""Names such as v5e:4x8, and the devices to compile for, without any at hand."""

from __future__ import annotations

import importlib.metadata
import math
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from vqlab.planning.chips import Chip, find_gpu, find_tpu

# The longest axis of a slice that libtpu knows; beyond it the compiler ends the process.
MAX_SIDE = 16


class Topology(NamedTuple):
    """A number of chips of one kind.

    Attributes:
      name: such as v5e:4x8 or h100:8.
      chip: one of them, each a device.
      sides: of a TPU's torus; of GPUs their number.
    """

    name: str
    chip: Chip
    sides: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """Chips in total."""
        return math.prod(self.sides)


def parse_tpu(name: str) -> Topology:
    """The topology of a name such as v5e:4x8 or v4:2x2x4.

    Raises:
      ValueError: an unknown chip or a shape that it does not come in.
    """
    kind, _, shape = name.partition(":")
    chip = find_tpu(kind)
    sides = shape.split("x")
    example = "x".join(["4"] * chip.dimensions)
    if not all(side.isdecimal() for side in sides) or len(sides) != chip.dimensions:
        raise ValueError(
            f"topology {name!r} needs {chip.dimensions} sides, such as {kind}:{example}"
        )
    numbers = tuple(int(side) for side in sides)
    if not all(1 <= side <= MAX_SIDE for side in numbers):
        raise ValueError(f"topology {name!r} has a side outside 1..{MAX_SIDE}")
    return Topology(name, chip, numbers)


def parse_gpus(count: int, kind: str) -> Topology:
    """`count` GPUs in servers of eight.

    Raises:
      ValueError: an unknown GPU, or a number that does not fill its servers.
    """
    chip = find_gpu(kind)
    if count < 1 or (count > chip.domain and count % chip.domain):
        raise ValueError(f"{count} GPUs do not fill servers of {chip.domain}")
    return Topology(f"{kind}:{count}", chip, (count,))


def libtpu_version() -> str | None:
    """Of the installed compiler for TPUs; None where there is none."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def tpu_devices(topology: Topology) -> list:
    """Devices that programs can be compiled for, and not run on.

    Raises:
      ValueError: the compiler does not know the topology; its own words.
    """
    # Nothing here talks to a chip: no metadata server to ask, no lock against other processes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options = {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device
    if topology.num_devices == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        message = str(error).strip().splitlines()[-1]
        raise ValueError(f"no such topology {topology.name!r}: {message}") from error
    if len(description.devices) != topology.num_devices:
        raise ValueError(
            f"topology {topology.name!r} gives {len(description.devices)} devices "
            f"instead of {topology.num_devices}"
        )
    return list(description.devices)
