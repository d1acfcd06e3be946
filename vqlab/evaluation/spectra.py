"""Radial power spectra of images, and how far two of them lie apart.

Semanticist, section 5.4: |F|**2 averaged over concentric rings, on logarithmic axes. What the paper
leaves open is chosen here: luma of the pixels in [0, 1], no window, rings one cycle per image wide.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MIN_SIDE = 4  # pixels; below there are fewer than two rings
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

# The power that rounding to 8 bits adds at every frequency: less than this, no picture can show.
ROUNDING_POWER = 1 / 255**2 / 12


def frequencies(height: int, width: int) -> np.ndarray:
    """[R]: the rings' frequencies in cycles per pixel, from one cycle per shorter side to 0.5.

    Raises:
      ValueError: a side is below `MIN_SIDE`.
    """
    side = min(height, width)
    if side < MIN_SIDE:
        raise ValueError(
            f"images of {height}x{width} have no spectrum: sides must be at least {MIN_SIDE}"
        )
    return np.arange(1, side // 2 + 1) / side


def radial_power(images: Float[Array, "B H W 3"]) -> Float[Array, "B R"]:
    """Mean power |F|**2 / (H W) over each ring of frequencies, float32; images in [-1, 1].

    Ring r holds the frequencies that round to r cycles per shorter side, `frequencies(H, W)[r - 1]`
    cycles per pixel. White noise of variance v has power v in every ring. The mean and the corners
    beyond 0.5 cycles per pixel belong to no ring.
    """
    height, width = images.shape[1:3]
    num_rings = len(frequencies(height, width))
    pixels = (jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) / 2.0
    luma = sum(weight * pixels[..., channel] for channel, weight in enumerate(LUMA))
    power = jnp.square(jnp.abs(jnp.fft.fft2(luma))) / (height * width)
    rings = _rings(height, width)
    # A sum over the pixels of each ring, as a scatter that leaves what lies beyond the last one.
    sums = (
        jnp.zeros((len(images), num_rings + 2))
        .at[:, rings.ravel()]
        .add(power.reshape(len(images), -1))
    )
    counts = np.bincount(rings.ravel(), minlength=num_rings + 2)
    return sums[:, 1:-1] / counts[1:-1]


def spectrum_distance(power: np.ndarray, other: np.ndarray, frequency: np.ndarray) -> float:
    """Mean |log10 power - log10 other| over the logarithm of the frequency, all [R].

    The area between the curves on logarithmic axes over the axis's length: 1 means a factor of ten
    at every frequency. Powers count as at least `ROUNDING_POWER`.
    """
    logs = [np.log10(np.maximum(x, ROUNDING_POWER)) for x in (power, other)]
    position = np.log(frequency)
    area = np.trapezoid(np.abs(logs[0] - logs[1]), position)
    return float(area / (position[-1] - position[0]))


def _rings(height: int, width: int) -> np.ndarray:
    """[H, W] int: each frequency's ring 1..R; 0 for the mean, R + 1 beyond."""
    side = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    return np.minimum(np.rint(radius * side), side // 2 + 1).astype(int)
