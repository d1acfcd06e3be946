"""Where arrays live: the mesh, and one rule per parameter.

The mesh has two axes. Both split the batch; `fsdp` also splits parameters, optimizer moments and
averaged weights. Rules are an ordered list of (regex over slash-separated paths, tactic): the
first match wins, and no match is an error, so no parameter is ever placed by accident.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vqlab.ops.mesh import BATCH_AXES

TACTICS = ("replicate", "fsdp")

# Below this many elements an array costs less to keep whole than to gather.
MIN_SHARDED_SIZE = 2**14


def make_mesh(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp) mesh; one of the two may be -1, meaning all the devices that are left.

    Raises:
      ValueError: when the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        if known > 0 and len(devices) % known == 0:
            sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} does not fit {len(devices)} devices; "
            "the axes must multiply to the number of devices (one of them may be -1)"
        )
    grid = np.asarray(devices).reshape(sizes)
    return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * len(BATCH_AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path) -> str:
    """A jax key path as a slash-separated name, such as `params/tokenizer/encoder/.../kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _fsdp_spec(name: str, shape: tuple[int, ...], size: int) -> PartitionSpec:
    if size == 1 or math.prod(shape) < MIN_SHARDED_SIZE:
        return PartitionSpec()
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if not divisible:
        raise ValueError(
            f"no axis of {name} {shape} divides by the fsdp axis of {size} devices; "
            "choose another fsdp size or give it the rule 'replicate'"
        )
    # The largest axis; of equals the last, which is the output axis of a kernel.
    chosen = max(divisible, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == chosen else None for axis in range(chosen + 1)))


def tree_sharding(tree, mesh: Mesh, rules: Sequence[tuple[str, str]]):
    """A NamedSharding for each leaf of a tree of arrays or ShapeDtypeStructs.

    Raises:
      ValueError: for an unknown tactic, a leaf that no rule matches (its name), or an axis that
        does not divide (the numbers).
    """
    for pattern, tactic in rules:
        if tactic not in TACTICS:
            raise ValueError(f"unknown tactic {tactic!r} for {pattern!r}; known: {TACTICS}")

    def place(path, leaf):
        name = path_name(path)
        for pattern, tactic in rules:
            if re.search(pattern, name):
                spec = PartitionSpec()
                if tactic == "fsdp":
                    spec = _fsdp_spec(name, tuple(leaf.shape), mesh.shape["fsdp"])
                return NamedSharding(mesh, spec)
        raise ValueError(f"no sharding rule matches {name}; add one to config.sharding")

    return jax.tree_util.tree_map_with_path(place, tree)


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Each process's rows of the batch, assembled into arrays that span the mesh."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
