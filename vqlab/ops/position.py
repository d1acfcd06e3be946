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


def rotary_table(height: int, width: int, head_dim: int, num_prefix: int = 0) -> np.ndarray:
    """[num_prefix + height * width, head_dim / 2, 2] float32: cos and sin for pairs of channels.

    The first half of the pairs turns with the row, the second with the column, each by head_dim / 4
    frequencies from 1 down to almost 1 / 10000. Rows of the prefix are zeros: its queries and keys
    vanish, so it is seen by all with the same weight (LlamaGen's precompute_freqs_cis_2d). Raises
    ValueError unless head_dim is a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(
            f"heads of {head_dim} channels do not split into rows and columns of pairs"
        )
    frequencies = MAX_PERIOD ** -(np.arange(head_dim // 4) / (head_dim // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = [positions.reshape(-1, 1) * frequencies for positions in (rows, columns)]
    angles = np.concatenate(angles, axis=1)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return np.pad(table, ((num_prefix, 0), (0, 0), (0, 0))).astype(np.float32)


def rotate(x: Float[Array, "B M N D"], table: Float[Array, "N pairs 2"]) -> Float[Array, "B M N D"]:
    """`x` with each pair of neighbouring channels turned by its angle; inside in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    cos, sin = table[..., 0], table[..., 1]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
