"""Placement hints that hold inside jit under a mesh and vanish without one."""

import jax
from jax.sharding import PartitionSpec

# The mesh axes that the batch is split over; parameters are split over the second.
BATCH_AXES = ("data", "fsdp")
# The axis that splits heads and hidden layers of transformers.
TENSOR_AXIS = "tensor"
AXES = (*BATCH_AXES, TENSOR_AXIS)


def replicate(x: jax.Array) -> jax.Array:
    """`x` whole on every device of the mesh set by `jax.set_mesh`; `x` itself when none is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def split_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """`x` with this axis, and no other, split over the mesh's `BATCH_AXES`.

    Between the layers of a network this keeps the compiler from splitting activations by channel
    where parameters are, which costs memory and communication.
    """
    axes = _batch_axes()
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, axes)) if axes else x


def split_features(x: jax.Array) -> jax.Array:
    """`x` [..., B, F] as the product of a few rows with a large kernel is cheapest to compute.

    The rows are split over `data` and the features over `fsdp`, as the kernel is, if they divide:
    rows then travel and not the kernel.
    """
    axes = _batch_axes()
    size = dict(jax.sharding.get_abstract_mesh().shape).get(BATCH_AXES[-1], 1)
    features = None if size == 1 or x.shape[-1] % size else BATCH_AXES[-1]
    rows = tuple(axis for axis in axes if axis != features)
    spec = PartitionSpec(*[None] * (x.ndim - 2), rows, features)
    return jax.lax.with_sharding_constraint(x, spec) if axes else x


def split_tensor(x: jax.Array, axis: int, what: str) -> jax.Array:
    """`x` with its leading axis split as by `split_batch`, and `axis` over `TENSOR_AXIS`.

    Raises:
      ValueError: the axis, which holds so many `what`, does not divide.
    """
    size = dict(jax.sharding.get_abstract_mesh().shape).get(TENSOR_AXIS, 1)
    if size == 1:
        return x
    axis %= x.ndim
    if x.shape[axis] % size:
        raise ValueError(f"{x.shape[axis]} {what} do not split over mesh.tensor={size}")
    spec = [_batch_axes(), *[None] * (x.ndim - 1)]
    spec[axis] = TENSOR_AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _batch_axes() -> tuple[str, ...]:
    return tuple(a for a in BATCH_AXES if a in jax.sharding.get_abstract_mesh().axis_names)
