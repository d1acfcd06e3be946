"""Clouds of tokens to fit codebooks to, without images: drawn here, or made of a network's vectors.

What is drawn has a standard deviation of 1 / i along its i-th principal axis: many channels carry
little each, as in real latents.
"""

from typing import NamedTuple

import numpy as np


class Cloud(NamedTuple):
    """Tokens of C channels about their mean, float32.

    train: [N, C], to fit to. held_out: [M, C], to measure on. axes: [C, 2], the directions of the
    two largest variances, to draw along.
    """

    train: np.ndarray
    held_out: np.ndarray
    axes: np.ndarray


def anisotropic(count: int, channels: int, seed: int) -> np.ndarray:
    """[count, channels] float32: normal, with variance 1 / i**2 along channel i = 1, 2, ...."""
    noise = np.random.default_rng(seed).standard_normal((count, channels))
    return (noise / np.arange(1, channels + 1)).astype(np.float32)


def make_cloud(tokens: np.ndarray, channels: int, num_held_out: int, seed: int) -> Cloud:
    """What an encoder of so many channels could keep of tokens [N, D]: their principal components.

    They are rotated at random, so that groups of channels share every component, and scaled to a
    standard deviation of 1 along the first. Which of the N are held out is drawn too.

    Raises:
      ValueError: there are fewer channels or tokens than that.
    """
    count, width = tokens.shape
    if not 2 <= channels <= width:
        raise ValueError(f"channels={channels} of tokens with {width}: choose 2..{width}")
    if not 0 < num_held_out < count:
        raise ValueError(f"{num_held_out} held-out tokens of {count}: choose 1..{count - 1}")
    rng = np.random.default_rng(seed)
    centred = tokens.astype(np.float64) - tokens.mean(0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred / count)
    components = centred @ axes[:, ::-1][:, :channels] / np.sqrt(variances[-1])
    rotation = np.linalg.qr(rng.standard_normal((channels, channels)))[0]
    rotated = (components @ rotation.T).astype(np.float32)[rng.permutation(count)]
    return Cloud(rotated[num_held_out:], rotated[:num_held_out], rotation[:, :2])
