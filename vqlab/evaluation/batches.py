"""What all evaluators share: their batches, and arrays brought to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A split, "validation" or "train" -> one pass over its batches {"images": [B, H, W, 3] in [-1, 1],
# "mask": [B] bool, False for padding, "labels": [B] int32}, all of one shape, as NumPy or (sharded)
# JAX arrays. Few read labels. A second argument names another crop than ADM's, see
# `vqlab.evaluation.protocols`.
MakeBatches = Callable[..., Iterable[Mapping[str, Any]]]

SPLITS = ("validation", "train")
ADM_CROP = "adm"  # what all evaluators read, unless a protocol has another one


def check_split(split: str) -> None:
    """Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")


def read(
    make_batches: MakeBatches, split: str, crop: str = ADM_CROP
) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """(number, batch) of a split.

    Raises:
      ValueError: after the last batch, if there was none, or none of the images could be read.
    """
    number, is_any_shown = -1, False
    made = make_batches(split) if crop == ADM_CROP else make_batches(split, crop)
    for number, batch in enumerate(made):
        is_any_shown = is_any_shown or bool(to_host(batch["mask"]).any())
        yield number, batch
    if number < 0:
        raise ValueError(f"the {split} split has no images to evaluate on")
    if not is_any_shown:
        raise ValueError(f"none of the images of the {split} split can be read")


def to_host(x: Any) -> np.ndarray:
    """NumPy of the whole array, also where its shards lie on other hosts."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
