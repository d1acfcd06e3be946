"""Placement hints that hold inside jit under a mesh and vanish without one."""

import jax
from jax.sharding import PartitionSpec

# The mesh axes that the batch is split over; parameters are split over the second.
BATCH_AXES = ("data", "fsdp")


def replicate(x: jax.Array) -> jax.Array:
    """`x` whole on every device of the mesh set by `jax.set_mesh`; `x` itself when none is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def split_batch(x: jax.Array) -> jax.Array:
    """`x` with its leading axis, and no other, split over the mesh's `BATCH_AXES`.

    Between the layers of a network this keeps the compiler from splitting activations by channel
    where parameters are, which costs memory and communication.
    """
    axes = tuple(a for a in BATCH_AXES if a in jax.sharding.get_abstract_mesh().axis_names)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
