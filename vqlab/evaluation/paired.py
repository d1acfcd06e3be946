"""Measures of images against their reconstructions: a value of each pair, then a mean over them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vqlab.evaluation.image_metrics import MAX_PSNR, ssim_gaussian, ssim_uniform, to_uint8
from vqlab.evaluation.protocols import Protocol
from vqlab.models.pretrained.lpips import lpips_distance
from vqlab.ops.pixels import as_floats, mse_per_image, to_unit

PAIRED = ("psnr", "ssim", "lpips")
PSNR_BATCH = 64  # of Semanticist's evaluation


@functools.partial(jax.jit, static_argnames="rounding")
def to_pixels(images: Float[Array, "B H W 3"], rounding: str) -> UInt8[Array, "B H W 3"]:
    """[-1, 1] -> 0..255, clipped, by "floor" or "round"; pixels from uint8 return unchanged."""
    if rounding == "floor":
        return to_uint8(images)
    return jnp.round(to_unit(images) * 255.0).astype(jnp.uint8)


def paired_values(
    protocol: Protocol,
    measures: Collection[str],
    lpips_params: Any,
    images: Float[Array, "B H W 3"],
    made: Float[Array, "B H W 3"],
) -> dict[str, jax.Array]:
    """[B] float32 by name: "mse", "ssim", "lpips", those that `measures` take; images in [-1, 1].

    Raises:
      ValueError: images too small for a measure.
    """
    values = {}
    if "psnr" in measures:
        if protocol.clips:
            values["mse"] = mse_per_image(images, made)
        else:
            difference = (made.astype(jnp.float32) - images) / 2.0
            values["mse"] = jnp.mean(jnp.square(difference), axis=(1, 2, 3))
    if "ssim" in measures:
        if protocol.ssim == "ssim":
            values["ssim"] = ssim_uniform(images, as_floats(to_pixels(made, protocol.rounding)))
        else:
            values["ssim"] = ssim_gaussian(images, made, clip=protocol.clips)[protocol.ssim]
    if "lpips" in measures:
        pair = [jnp.clip(x.astype(jnp.float32), -1.0, 1.0) for x in (images, made)]
        if protocol.lpips_range == (0, 1):
            pair = [to_unit(x) for x in pair]
        values["lpips"] = lpips_distance(lpips_params, *pair)
    return values


class PairedMeans:
    """Keeps each pair's values on the host, so that counts are exact and any mean can be taken."""

    def __init__(self):
        self._values: dict[str, list[np.ndarray]] = {}

    def add(self, values: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """A batch of `paired_values`, where `mask` [B] is False padding."""
        for name, batch in values.items():
            self._values.setdefault(name, []).append(np.asarray(batch, np.float64)[mask])

    def compute(self, protocol: Protocol) -> dict[str, float]:
        """{metric: value}."""
        values = {name: np.concatenate(batches) for name, batches in self._values.items()}
        means = {name: float(x.mean()) for name, x in values.items() if name != "mse"}
        if "mse" in values:
            means = {"psnr": mean_psnr(values["mse"], protocol.psnr)} | means
        return means


def mean_psnr(mse: np.ndarray, kind: str) -> float:
    """dB of each image's MSE [N] on [0, 1], in the order of the data.

    "pooled": of the mean MSE (MGVQ). "mean": mean of the images' PSNR. "batches": mean over batches
    of 64 of the PSNR of their mean MSE (Semanticist), the last one of what is left.
    """
    if kind == "batches":
        mse = [mse[i : i + PSNR_BATCH].mean() for i in range(0, len(mse), PSNR_BATCH)]
    if kind == "pooled":
        mse = [np.mean(mse)]
    return float(np.mean(-10 * np.log10(np.maximum(mse, 10 ** (-MAX_PSNR / 10)))))
