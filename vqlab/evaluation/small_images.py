"""Images shrunk to a few pixels, as rows of numbers that fit in memory."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.ops.pixels import to_unit


class SmallImages(NamedTuple):
    """pixels [N, 3 side^2] in [0, 1], and labels [N]."""

    pixels: np.ndarray
    labels: np.ndarray


@functools.partial(jax.jit, static_argnames="side")
def shrink(images: Float[Array, "B H W 3"], side: int) -> Float[Array, "B F"]:
    """Images in [-1, 1], clipped -> [B, 3 side^2] in [0, 1], by an antialiased triangle filter."""
    shape = (len(images), side, side, 3)
    return jax.image.resize(to_unit(images), shape, "linear").reshape(len(images), -1)


def read_small(make_batches: MakeBatches, split: str, side: int) -> SmallImages:
    """All images of a split, in order, without padding.

    Raises:
      ValueError: there are none.
    """
    pixels, labels = [], []
    for _, batch in read(make_batches, split):
        mask = to_host(batch["mask"])
        pixels.append(to_host(shrink(batch["images"], side))[mask])
        labels.append(to_host(batch["labels"])[mask])
    return SmallImages(np.concatenate(pixels), np.concatenate(labels))
