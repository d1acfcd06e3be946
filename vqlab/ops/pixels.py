"""Pixels in the ranges that networks and metrics take."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def as_floats(images: Shaped[Array, "*dims"]) -> Float[Array, "*dims"]:
    """Images in [-1, 1]: uint8 ones become float32, x / 127.5 - 1; floats stay as they are.

    Raises:
      ValueError: another dtype, whose range nobody knows.
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; give floats in [-1, 1] or uint8")
    return images


def to_unit(images: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """[-1, 1] -> [0, 1] in float32; what lies outside is clipped."""
    return (jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) / 2.0


def mse_per_image(
    images: Float[Array, "B H W C"], reconstruction: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Mean squared error of each pair, on clipped floats in [0, 1]."""
    return jnp.mean(jnp.square(to_unit(images) - to_unit(reconstruction)), axis=(1, 2, 3))
