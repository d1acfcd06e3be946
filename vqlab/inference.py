"""A trained tokenizer for use: NumPy in, NumPy out."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab import models
from vqlab.export import package
from vqlab.models.tokenizer import check_images


class LoadedTokenizer:
    """Encodes images to indices and decodes any number of groups of them.

    Made by `vqlab.load`. Both methods are jitted once for each shape that they see.

    Attributes:
      num_groups: G, indices per latent position, coarse to fine.
      codebook_size: K, codewords per group; indices lie in 0..K-1.
      stride: pixels per latent position along each side.
    """

    def __init__(self, node: Mapping[str, Any], params: Mapping, variables: Mapping):
        self.node = node
        self.module = models.build(node)
        self.num_groups: int = self.module.quantizer.num_groups
        self.codebook_size: int = self.module.quantizer.codebook_size
        self.stride: int = self.module.stride
        self.params, self.variables = params, variables
        self._weights = jax.device_put({"params": params, **variables})
        self._encode = jax.jit(functools.partial(self.module.apply, method="encode"))
        self._decode = jax.jit(
            functools.partial(self.module.apply, method="decode_indices"),
            static_argnames="num_groups",
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Indices [B, h, w, G] int32 of images.

        Args:
          images: [B, H, W, 3], floats in [-1, 1] or uint8; sides are multiples of `stride`.

        Raises:
          ValueError: for another shape, or values outside the range.
        """
        images = np.asarray(images)
        check_images(images, self.stride)
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 127.5 - 1.0
        low, high = float(images.min()), float(images.max())
        if not (-1.001 <= low and high <= 1.001):
            raise ValueError(f"images lie in [{low:g}, {high:g}]; give floats in [-1, 1] or uint8")
        return np.asarray(self._encode(self._weights, jnp.asarray(images, jnp.float32)).indices)

    def decode(self, indices: np.ndarray, num_groups: int | None = None) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1].

        Args:
          indices: [B, h, w, G] integers in 0..K-1.
          num_groups: use only the first so many groups, 0..G; None for all.

        Raises:
          ValueError: for another shape, an index out of range, or more groups than there are.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.codebook_size:
            raise ValueError(
                f"indices lie in [{indices.min()}, {indices.max()}]; "
                f"this tokenizer's lie in [0, {self.codebook_size - 1}]"
            )
        images = self._decode(self._weights, jnp.asarray(indices), num_groups=num_groups)
        return np.clip(np.asarray(images), -1.0, 1.0)


def load(path: str | pathlib.Path, step: int | str = "latest") -> LoadedTokenizer:
    """The tokenizer in an exported folder, or in a training run's workdir.

    Args:
      path: the folder.
      step: of a workdir: "latest", "best", or a number.

    Raises:
      ValueError: no tokenizer there, or one that is cut short.
    """
    if package.is_package(path):
        return LoadedTokenizer(*package.load_package(path))
    # Only a workdir needs what training needs.
    from vqlab.workdir import load_tokenizer

    return LoadedTokenizer(*load_tokenizer(path, step))
