"""Bicubic resizing with the cubic of PyTorch (a = -0.75); jax.image.resize has a = -0.5."""

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


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' convolution kernel (1981, equation 4) at distances >= 0."""
    d, a = distance, CUBIC_A
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
