"""Resizing as PyTorch, TensorFlow 1 and Pillow do it, as matrices along each axis.

jax.image.resize has another cubic (a = -0.5) than PyTorch (-0.75), and antialiases by default.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CUBIC_A = -0.75


def bicubic(x: Float[Array, "... h w C"], height: int, width: int) -> Float[Array, "... H W C"]:
    """`x` resized to [..., height, width, C] in float32.

    As torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=False): pixel
    centres are aligned, and pixels beyond an edge repeat it.
    """
    rows = jnp.asarray(bicubic_matrix(x.shape[-3], height), jnp.float32)
    columns = jnp.asarray(bicubic_matrix(x.shape[-2], width), jnp.float32)
    return jnp.einsum(
        "Hh,...hwc,Ww->...HWc",
        rows,
        x.astype(jnp.float32),
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )


@functools.cache
def bicubic_matrix(source: int, target: int, scale: float | None = None) -> np.ndarray:
    """[target, source] weights, float64, of one axis.

    `scale`: source pixels per target pixel; source / target by default.
    """
    scale = source / target if scale is None else scale
    centres = (np.arange(target) + 0.5) * scale - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        weights = _cubic(np.abs(centres - (first + offset)))
        np.add.at(matrix, (np.arange(target), np.clip(first + offset, 0, source - 1)), weights)
    return matrix


def resize(
    x: Float[Array, "... h w C"], rows: np.ndarray, columns: np.ndarray
) -> Float[Array, "... H W C"]:
    """`x` in float32, its columns mixed by `columns` [W, w], then its rows by `rows` [H, h]."""
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    rows, columns = (jnp.asarray(matrix, jnp.float32) for matrix in (rows, columns))
    wide = einsum("...hwc,Ww->...hWc", x.astype(jnp.float32), columns)
    return einsum("Hh,...hwc->...Hwc", rows, wide)


@functools.cache
def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] weights of one axis, float64, as torch.nn.functional.interpolate.

    mode="bilinear", align_corners=False, antialias=False: pixel centres are aligned.
    """
    centres = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    return _between(centres, source)


@functools.cache
def corner_bilinear_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] weights of one axis, float64, as TensorFlow 1's resize_bilinear.

    Pixel i lies at i * source / target, whose corners are aligned and not their centres; computed
    in float32, as there.
    """
    scale = np.float32(source) / np.float32(target)
    return _between(np.arange(target, dtype=np.float32) * scale, source)


@functools.cache
def antialiased_bicubic_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] weights of one axis, float64, as Pillow's BICUBIC (its Resample.c).

    The cubic with a = -0.5, as wide as a target pixel where that is larger than a source pixel;
    what lies beyond the image is left out.
    """
    scale = source / target
    width = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum(np.floor(centres - 2 * width + 0.5), 0)
    last = np.minimum(np.floor(centres + 2 * width + 0.5), source)
    pixels = np.arange(source)
    weights = _cubic(np.abs(pixels + 0.5 - centres[:, None]) / width, a=-0.5)
    weights *= (pixels >= first[:, None]) & (pixels < last[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def _between(places: np.ndarray, source: int) -> np.ndarray:
    """Weights of the two pixels around each place; the last pixel repeats."""
    first = np.minimum(np.floor(places).astype(int), source - 1)
    share = (places - first).astype(np.float64)
    matrix, rows = np.zeros((len(places), source)), np.arange(len(places))
    np.add.at(matrix, (rows, first), 1 - share)
    np.add.at(matrix, (rows, np.minimum(first + 1, source - 1)), share)
    return matrix


def _cubic(distance: np.ndarray, a: float = CUBIC_A) -> np.ndarray:
    """Keys' convolution kernel (1981, equation 4) at distances >= 0."""
    d = distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
