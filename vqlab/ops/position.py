"""Fixed sine and cosine tables of positions and times."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MAX_PERIOD = 10000.0


def sincos_table(height: int, width: int, channels: int) -> np.ndarray:
    """[height * width, channels] float32 for a grid, row by row (MAE's pos_embed.py, DiT).

    The first half of the channels tells the column, the second the row; each is sines, then
    cosines, of C / 4 frequencies from 1 down to almost 1 / 10000. Raises ValueError unless C is a
    multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"{channels} channels of a position table are no multiple of 4")
    frequencies = MAX_PERIOD ** -(np.arange(channels // 4) / (channels // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = []
    for positions in (columns, rows):
        angles = positions.reshape(-1, 1) * frequencies
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def time_features(t: Float[Array, " B"], channels: int) -> Float[Array, "B channels"]:
    """cos(t f), then sin(t f), float32, of C / 2 frequencies f from 1 down to almost 1 / 10000.

    DiT's timestep_embedding; `channels` is even.
    """
    frequencies = MAX_PERIOD ** -(np.arange(channels // 2) / (channels // 2))
    angles = t[:, None] * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
