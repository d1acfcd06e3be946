"""Images of any sides for networks that take multiples of their stride."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped


def pad_to_stride(
    images: Shaped[Array | np.ndarray, "B H W C"], stride: int
) -> Shaped[Array | np.ndarray, "B H2 W2 C"]:
    """Images with sides that are multiples of `stride`, continued by reflection below and right.

    NumPy stays NumPy. What is made of them is cropped back by `[:, :H, :W]`. Of a single row or
    column, which has no reflection, copies continue it.
    """
    height, width = images.shape[1:3]
    missing = (-height % stride, -width % stride)
    if not any(missing):
        return images
    pad = (np if isinstance(images, np.ndarray) else jnp).pad
    for axis, number in zip((1, 2), missing, strict=True):
        around = [(0, 0)] * 4
        around[axis] = (0, number)
        images = pad(images, around, mode="reflect" if images.shape[axis] > 1 else "edge")
    return images
