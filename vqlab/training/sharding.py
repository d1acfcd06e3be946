"""Where arrays live: the mesh, and one rule per parameter.

The mesh has three axes. `data` and `fsdp` split the batch; `fsdp` also splits parameters, optimizer
moments and averaged weights; `tensor` splits the layers of transformers themselves. Rules are an
ordered list of (regex over slash-separated paths, tactic): the first match wins, and no match is an
error, so no parameter is ever placed by accident.

Tactics: "replicate", a copy on every device; "fsdp", the largest axis over `fsdp`; "column" and
"row", the last axis or the one before it over `tensor` and then `fsdp`, for a layer that makes the
hidden features and for the one that reads them (Megatron-LM, section 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vqlab.ops.mesh import AXES, BATCH_AXES, TENSOR_AXIS

# How far from the end the axis is that "column" and "row" cut.
_TENSOR_TACTICS = {"column": 1, "row": 2}
TACTICS = ("replicate", "fsdp", *_TENSOR_TACTICS)

# Below this many elements an array costs less to keep whole than to gather.
MIN_SHARDED_SIZE = 2**14


def make_mesh(
    data: int, fsdp: int, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A (data, fsdp, tensor) mesh; one of them may be -1, meaning all the devices that are left.

    Devices are ordered by their links, so that the later axes have the nearer neighbours. Across
    slices of TPUs, or servers of GPUs, `data` is split first.

    Raises:
      ValueError: when the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        if known > 0 and len(devices) % known == 0:
            sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} does not fit {len(devices)} "
            "devices; the axes must multiply to the number of devices (one of them may be -1)"
        )
    return Mesh(order_devices(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def order_devices(devices: Sequence[jax.Device], sizes: Sequence[int]) -> np.ndarray:
    """The devices as an array of these sizes.

    What `jax.make_mesh` does, which refuses several slices, and on most TPUs any axis that is not
    whole sides of the torus.
    """
    left = len({getattr(device, "slice_index", 0) for device in devices})
    if left == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    across = []
    for size in sizes:
        across.append(math.gcd(size, left))
        left //= across[-1]
    within = [size // slices for size, slices in zip(sizes, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        within, across, devices, allow_split_physical_axes=True
    )


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def path_name(path) -> str:
    """A jax key path as a slash-separated name, such as `params/tokenizer/encoder/.../kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(name: str, shape: tuple[int, ...], tactic: str, mesh: Mesh) -> PartitionSpec:
    """Where an array goes by a tactic; small ones are left whole."""
    if tactic == "replicate" or math.prod(shape) < MIN_SHARDED_SIZE:
        return PartitionSpec()
    if tactic == "fsdp":
        return _cut(name, shape, range(len(shape)), ("fsdp",), mesh)
    place = len(shape) - _TENSOR_TACTICS[tactic]
    return _cut(name, shape, [place], (TENSOR_AXIS, "fsdp"), mesh)


def _cut(name, shape, places, axes: tuple[str, ...], mesh: Mesh) -> PartitionSpec:
    """The largest of the array's axes `places` that divides, cut over the mesh's `axes`."""
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if parts == 1:
        return PartitionSpec()
    divisible = [place for place in places if shape[place] % parts == 0]
    if not divisible:
        sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
        raise ValueError(
            f"no axis of {name} {shape} that its rule cuts divides by {sizes}; choose other sizes "
            "of the mesh or another rule in config.sharding, such as 'replicate'"
        )
    # Of equals the last, which is the output axis of a kernel.
    chosen = max(divisible, key=lambda place: (shape[place], place))
    names = axes if len(axes) > 1 else axes[0]
    return PartitionSpec(*(names if place == chosen else None for place in range(chosen + 1)))


def tree_sharding(tree, mesh: Mesh, rules: Sequence[tuple[str, str]]):
    """A NamedSharding for each leaf of a tree of arrays or ShapeDtypeStructs.

    Raises:
      ValueError: for an unknown tactic, a leaf that no rule matches (its name), or an axis that
        does not divide (the numbers).
    """
    for pattern, tactic in rules:
        if tactic not in TACTICS:
            raise ValueError(
                f"unknown tactic {tactic!r} for {pattern!r}; known: {', '.join(TACTICS)}"
            )

    def place(path, leaf):
        name = path_name(path)
        for pattern, tactic in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _spec(name, tuple(leaf.shape), tactic, mesh))
        raise ValueError(f"no sharding rule matches {name}; add one to config.sharding")

    return jax.tree_util.tree_map_with_path(place, tree)


def own_parts(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """(numbers, P): which of P equal parts of a batch the devices of this process hold, ascending.

    They need not be neighbours. Processes that split `tensor` among them hold the same parts, and
    read the same rows.
    """
    rows = mesh.devices.reshape(batch_parts(mesh), -1)
    own = jax.process_index()
    held = (any(device.process_index == own for device in devices) for devices in rows)
    return tuple(part for part, is_own in enumerate(held) if is_own), len(rows)


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of the batch, those of `own_parts`, in arrays that span the mesh."""
    sharding, (parts, num_parts) = batch_sharding(mesh), own_parts(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, rows, (len(rows) // len(parts) * num_parts, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }
