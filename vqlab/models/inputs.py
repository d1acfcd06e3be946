"""What the caller of a loaded tokenizer gives, checked and as the networks take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_pixels(images: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] float32 in [-1, 1] of such floats or of uint8; an empty batch is one too.

    Raises:
      ValueError: for another dtype, or values outside the range.
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; give floats in [-1, 1] or uint8")
    if not images.size:
        return images.astype(np.float32)
    low, high = float(images.min()), float(images.max())
    if not (-1.001 <= low and high <= 1.001):
        raise ValueError(f"images lie in [{low:g}, {high:g}]; give floats in [-1, 1] or uint8")
    return images.astype(np.float32)


def check_indices(indices: np.ndarray, codebook_size: int) -> np.ndarray:
    """The indices as int32.

    Raises:
      ValueError: for another kind of number, or one outside 0..codebook_size-1.
    """
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"indices must be integers, not {indices.dtype}")
    if indices.size and not 0 <= indices.min() <= indices.max() < codebook_size:
        raise ValueError(
            f"indices lie in [{indices.min()}, {indices.max()}]; "
            f"this tokenizer's lie in [0, {codebook_size - 1}]"
        )
    return indices.astype(np.int32)


def check_real(name: str, numbers: np.ndarray) -> np.ndarray:
    """The numbers as float32.

    Raises:
      ValueError: for another kind of number, such as complex, or one that is not finite.
    """
    if not _is_real(numbers.dtype):
        raise ValueError(f"{name} must be floats, not {numbers.dtype}")
    numbers = numbers.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} hold NaN or infinite numbers")
    return numbers


def check_number(name: str, value: Any) -> float:
    """One real number as a float; ValueError names it."""
    number = np.asarray(value)
    if number.ndim or not _is_real(number.dtype):
        raise ValueError(f"{name}={value!r} is no number")
    return float(number)


def check_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Some real numbers as a tuple of floats; ValueError names them."""
    if not isinstance(values, Sequence | np.ndarray | jax.Array) or isinstance(values, str):
        raise ValueError(f"{name}={values!r} are no numbers")
    return tuple(check_number(name, value) for value in values)


def _is_real(dtype: np.dtype) -> bool:
    """Floats and integers, among them those of ml_dtypes; neither bool nor complex."""
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
