"""Where arrays lie on a mesh: hints to the compiler, and what users' own programs need of types.

Hints hold inside jit under a mesh, for the axes that the compiler places (`AxisType.Auto`). They
vanish without a mesh, for axes of other types (Manual inside a user's shard_map, Explicit in types)
and where an array does not divide.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# The mesh axes that the batch is split over; parameters are split over the second.
BATCH_AXES = ("data", "fsdp")
# The axis that splits heads and hidden layers of transformers.
TENSOR_AXIS = "tensor"
AXES = (*BATCH_AXES, TENSOR_AXIS)


def replicate(x: jax.Array) -> jax.Array:
    """`x` whole on every device of the mesh set by `jax.set_mesh`; `x` itself when none is set."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if _auto_sizes() else x


def split_batch(x: jax.Array, axis: int = 0) -> jax.Array:
    """`x` with this axis, and no other, split over the mesh's `BATCH_AXES`.

    Between the layers of a network this keeps the compiler from splitting activations by channel
    where parameters are, which costs memory and communication.
    """
    axes = _batch_axes(x, axis)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, axes)) if axes else x


def split_features(x: jax.Array) -> jax.Array:
    """`x` [..., B, F] as the product of a few rows with a large kernel is cheapest to compute.

    The rows are split over `data` and the features over `fsdp`, as the kernel is, if they divide:
    rows then travel and not the kernel.
    """
    axes = _batch_axes(x, -2)
    size = _auto_sizes().get(BATCH_AXES[-1], 1)
    features = None if size == 1 or x.shape[-1] % size else BATCH_AXES[-1]
    rows = tuple(axis for axis in axes if axis != features)
    spec = PartitionSpec(*[None] * (x.ndim - 2), rows, features)
    return jax.lax.with_sharding_constraint(x, spec) if axes else x


def split_tensor(x: jax.Array, axis: int, what: str) -> jax.Array:
    """`x` with its leading axis split as by `split_batch`, and `axis` over `TENSOR_AXIS`.

    Raises:
      ValueError: the axis, which holds so many `what`, does not divide.
    """
    size = _auto_sizes().get(TENSOR_AXIS, 1)
    if size == 1:
        return x
    axis %= x.ndim
    if x.shape[axis] % size:
        raise ValueError(f"{x.shape[axis]} {what} do not split over mesh.tensor={size}")
    spec = [_batch_axes(x, 0), *[None] * (x.ndim - 1)]
    spec[axis] = TENSOR_AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _auto_sizes() -> dict[str, int]:
    mesh = jax.sharding.get_abstract_mesh()
    return {axis: mesh.shape[axis] for axis in mesh.auto_axes}


def _batch_axes(x: jax.Array, axis: int) -> tuple[str, ...]:
    """The mesh's axes to split this one of `x` over; none where it does not divide."""
    sizes = {axis: size for axis, size in _auto_sizes().items() if axis in BATCH_AXES}
    return () if x.shape[axis] % math.prod(sizes.values()) else tuple(sizes)


def varying_as(x: jax.Array, *others: jax.Array) -> jax.Array:
    """`x` with the type, inside shard_map, of what is computed from the `others`.

    Loops need it of their starting values, which otherwise are the same on all devices.
    """
    axes = _varying(x, *others) - _varying(x)
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


def _varying(*arrays: jax.Array) -> frozenset[str]:
    """Manual axes on which one of the arrays differs from device to device."""
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))


def placed_as(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` [B, ...] with the type of what is computed from `like` [B, ...].

    For what is made beside a user's arrays, such as noise; it joins them in loops and joints.
    """
    if jax.sharding.get_abstract_mesh().explicit_axes:
        x = jax.sharding.reshard(x, PartitionSpec(*jax.typeof(like).sharding.spec[:1]))
    return varying_as(x, like)


def explicit_place(x: jax.Array) -> NamedSharding | None:
    """Where Explicit axes of the mesh have `x`, as `out_sharding` of JAX's functions; else None."""
    has_axes = jax.sharding.get_abstract_mesh().explicit_axes
    return jax.typeof(x).sharding if has_axes else None


def along_batch(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function(x, ...)` for meshes with Explicit axes too, which inside the compiler places.

    For functions whose types JAX cannot derive then, most reshapes and gathers among them. The
    result's leading axis is split as that of `x`.
    """
    return _automatic(function, lambda x: jax.typeof(x).sharding.spec[:1])


def over_batch(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same for functions whose result is whole on every device."""
    return _automatic(function, lambda x: ())


def _automatic(function, spec):
    @functools.wraps(function)
    def wrapped(x, *rest, **options):
        if not jax.sharding.get_abstract_mesh().explicit_axes:
            return function(x, *rest, **options)
        arrays, rebuild = _arrays_of((x, *rest))
        on_arrays = jax.sharding.auto_axes(
            lambda *arrays: function(*rebuild(arrays), **options),
            out_sharding=PartitionSpec(*spec(x)),
        )
        return on_arrays(*arrays)

    return wrapped


def _arrays_of(arguments):
    """The arrays among the arguments, and what puts others back in their places."""
    is_array = [isinstance(value, jax.Array | np.ndarray) for value in arguments]

    def rebuild(arrays):
        arrays = iter(arrays)
        return [
            next(arrays) if own else value for own, value in zip(is_array, arguments, strict=True)
        ]

    return [value for own, value in zip(is_array, arguments, strict=True) if own], rebuild


# Where the leading axis is the batch, or begins with it.
reshape = along_batch(jnp.reshape)
rearrange = along_batch(einops.rearrange)
repeat = along_batch(einops.repeat)
