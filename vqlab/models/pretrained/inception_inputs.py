"""From images to what Inception takes, as each library does it: their features differ by it.

- "tf1": torch-fidelity, and ADM's graph: TensorFlow 1's bilinear resize, (x - 128) / 128.
- "torch": pytorch-fid: x / 255, PyTorch's bilinear resize without antialiasing, 2 x - 1.
- "clean": clean-fid: Pillow's antialiased bicubic resize of float channels, clipped to 0..255 and
  not rounded, (x - 128) / 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vqlab.models.pretrained.inception import SIDE
from vqlab.ops.resize import (
    antialiased_bicubic_matrix,
    bilinear_matrix,
    corner_bilinear_matrix,
    resize,
)
from vqlab.registry import choose


class Preparation(NamedTuple):
    """How a library prepares images.

    resized: pixels [B, H, W, 3] in 0..255 -> [B, 299, 299, 3] in its own range. normalised: that
    -> what the network takes. text: both in a few words.
    """

    resized: Callable[[jax.Array], jax.Array]
    normalised: Callable[[jax.Array], jax.Array]
    text: str


def _with(matrix: Callable) -> Callable[[jax.Array], jax.Array]:
    return lambda x: resize(x, matrix(x.shape[1], SIDE), matrix(x.shape[2], SIDE))


def _around_128(x: Array) -> Array:
    return (x - 128.0) / 128.0


PREPARATIONS = {
    "tf1": Preparation(
        _with(corner_bilinear_matrix),
        _around_128,
        "TensorFlow 1's bilinear resize to 299, (x - 128) / 128",
    ),
    "torch": Preparation(
        lambda x: _with(bilinear_matrix)(x / 255.0),
        lambda x: 2.0 * x - 1.0,
        "PyTorch's bilinear resize to 299, 2 x / 255 - 1",
    ),
    "clean": Preparation(
        lambda x: jnp.clip(_with(antialiased_bicubic_matrix)(x), 0.0, 255.0),
        _around_128,
        "Pillow's antialiased bicubic resize of floats to 299, (x - 128) / 128",
    ),
}


def prepare_images(
    pixels: Shaped[Array, "B H W 3"], preparation: str
) -> Float[Array, "B 299 299 3"]:
    """Pixels in 0..255, uint8 or floats, as Inception takes them; `preparation` is a name above."""
    chosen = choose("preparation", preparation, PREPARATIONS)
    return chosen.normalised(chosen.resized(pixels.astype(jnp.float32)))
