"""Metrics of reconstructions as sums and counts, so that batches and hosts add up to the whole.

A metric state is a pytree with `add` (a batch, whose rows may lie on many hosts) and `compute`.
Images are [B, H, W, 3] in [-1, 1] and clipped here; `mask` [B] is False for padding. Sums are
float32, counts int32. Two protocols of PSNR and three of SSIM are in use and differ by more than
methods do, so each has a name here and every number goes with it.
"""

from __future__ import annotations

import dm_pix
import jax
import jax.numpy as jnp
from clu.metrics import Average
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from vqlab.ops.pixels import mse_per_image, to_unit

UNIFORM_WINDOW = 7  # skimage's default, MGVQ's protocol
GAUSSIAN_WINDOW = 11  # Wang et al. 2004, torchmetrics' default with its sigma of 1.5

FLOOR_SLACK = 1e-3

# An image equal to its reconstruction has infinite PSNR; 100 dB keeps means finite.
MAX_PSNR = 100.0


def add_to(
    average: Average, values: Float[Array, " B"], mask: Bool[Array, " B"] | None = None
) -> Average:
    """With a batch of values; masked ones count for nothing, not even if NaN."""
    return average.merge(Average.from_model_output(values.astype(jnp.float32), mask))


@struct.dataclass
class PSNR:
    """Peak signal-to-noise ratio on [0, 1] floats, in both protocols."""

    mse: Average
    psnr: Average

    @classmethod
    def empty(cls) -> PSNR:
        """No images."""
        return cls(mse=Average.empty(), psnr=Average.empty())

    def add(
        self,
        images: Float[Array, "B H W 3"],
        reconstruction: Float[Array, "_B _H _W 3"],
        mask: Bool[Array, " B"] | None = None,
    ) -> PSNR:
        """With a batch of pairs."""
        _check_pair(images, reconstruction, window=1)
        mse = mse_per_image(images, reconstruction)
        return PSNR(mse=add_to(self.mse, mse, mask), psnr=add_to(self.psnr, _to_decibel(mse), mask))

    def compute(self) -> dict[str, jax.Array]:
        """`psnr`: of the mean MSE (MGVQ, eval_recon.py); `psnr_mean`: mean of the images' PSNR."""
        return {"psnr": _to_decibel(self.mse.compute()), "psnr_mean": self.psnr.compute()}


@struct.dataclass
class CodebookUsage:
    """How often each codeword of each group was chosen; counts are exact up to 2**31 - 1."""

    counts: Int[Array, "G K"]

    @classmethod
    def empty(cls, num_groups: int, codebook_size: int) -> CodebookUsage:
        """No choices; `codebook_size` is per group."""
        return cls(counts=jnp.zeros((num_groups, codebook_size), jnp.int32))

    def add(
        self, indices: Int[Array, "B *dims G"], mask: Bool[Array, " B"] | None = None
    ) -> CodebookUsage:
        """With the indices of a batch."""
        batch, *_, num_groups = indices.shape
        weights = jnp.ones(batch, jnp.int32) if mask is None else mask.astype(jnp.int32)
        weights = jnp.broadcast_to(weights.reshape(batch, *[1] * (indices.ndim - 1)), indices.shape)
        groups = jnp.broadcast_to(jnp.arange(num_groups), indices.shape)
        return CodebookUsage(counts=self.counts.at[groups, indices].add(weights))

    def compute(self) -> dict[str, Float[Array, " G"]]:
        """Per group.

        `usage`: share of codewords chosen at least once, in [0, 1]; `entropy`: of the choices, in
        bits, at most log2 K; `perplexity`: 2**entropy, the number of equally used codewords that
        would have this entropy.
        """
        counts = self.counts.astype(jnp.float32)
        share = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
        entropy = -jnp.sum(share * jnp.log2(jnp.where(share > 0, share, 1.0)), axis=-1)
        return {
            "usage": jnp.mean(self.counts > 0, axis=-1, dtype=jnp.float32),
            "perplexity": jnp.exp2(entropy),
            "entropy": entropy,
        }


def to_uint8(images: Float[Array, "*dims"]) -> UInt8[Array, "*dims"]:
    """[-1, 1] -> 0..255 by clipping and flooring, not rounding (MGVQ, eval_recon.py).

    The slack undoes float32's own rounding: pixels that came from uint8 return unchanged.
    """
    return jnp.floor(to_unit(images) * 255.0 + FLOOR_SLACK).astype(jnp.uint8)


def ssim_uniform(
    images: Float[Array, "B H W 3"], reconstruction: Float[Array, "_B _H _W 3"]
) -> Float[Array, " B"]:
    """SSIM of each pair with 7x7 uniform windows on uint8 pixels, mean over windows and channels.

    Equals skimage.metrics.structural_similarity(channel_axis=-1, data_range=255): windows that lie
    inside the image, unbiased variances. Sums over a window are integers, so that variances do not
    cancel in float32 as means of squares would.

    Raises:
      ValueError: the shapes differ or a side is below 7 px.
    """
    _check_pair(images, reconstruction, UNIFORM_WINDOW)
    x, y = (to_uint8(z).astype(jnp.int32) for z in (images, reconstruction))
    pixels = UNIFORM_WINDOW**2
    sum_x, sum_y = _window_sum(x), _window_sum(y)

    def covariance(products: Array, sum_a: Array, sum_b: Array) -> Array:
        scaled = pixels * _window_sum(products) - sum_a * sum_b  # below 2**28
        return scaled.astype(jnp.float32) / (pixels * (pixels - 1))

    var_x = covariance(x * x, sum_x, sum_x)
    var_y = covariance(y * y, sum_y, sum_y)
    cov = covariance(x * y, sum_x, sum_y)
    mean_x, mean_y = (s.astype(jnp.float32) / pixels for s in (sum_x, sum_y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return jnp.mean(numerator / denominator, axis=(1, 2, 3))


def ssim_gaussian(
    images: Float[Array, "B H W 3"], reconstruction: Float[Array, "_B _H _W 3"], clip: bool = True
) -> dict[str, Float[Array, " B"]]:
    """SSIM of each pair with 11x11 Gaussian windows (sigma 1.5) on floats in [0, 1], biased.

    `ssim_gaussian`: the mean over a window around every pixel, where the image goes on as its own
    reflection. Equals torchmetrics.functional's structural_similarity_index_measure(data_range=1)
    (1.4.2, 1.9.0), which Semanticist's numbers are of, there of pixels that are not clipped, as
    here without `clip`.
    `ssim_gaussian_valid`: the mean over the windows inside the image, the pixels at least 5 from
    the border. Equals tf.image.ssim and Wang et al.

    Raises:
      ValueError: the shapes differ or a side is below 11 px.
    """
    _check_pair(images, reconstruction, GAUSSIAN_WINDOW)
    border = GAUSSIAN_WINDOW // 2
    around = ((0, 0), (border, border), (border, border), (0, 0))
    pair = [to_unit(z) if clip else _unclipped_unit(z) for z in (images, reconstruction)]
    x, y = (jnp.pad(z, around, mode="reflect") for z in pair)
    everywhere = dm_pix.ssim(x, y, filter_size=GAUSSIAN_WINDOW, return_map=True)  # [B, H, W, 3]
    inside = everywhere[:, border:-border, border:-border]
    return {
        "ssim_gaussian": jnp.mean(everywhere, axis=(1, 2, 3)),
        "ssim_gaussian_valid": jnp.mean(inside, axis=(1, 2, 3)),
    }


def mean_colour(images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Each image painted in its own mean colour: what three numbers an image can do."""
    images = jnp.clip(images.astype(jnp.float32), -1.0, 1.0)
    return jnp.broadcast_to(jnp.mean(images, axis=(1, 2), keepdims=True), images.shape)


def _unclipped_unit(images: Array) -> Array:
    return (images.astype(jnp.float32) + 1.0) / 2.0


def _to_decibel(mse: Array) -> Array:
    """10 log10(1 / mse), at most MAX_PSNR."""
    return -10.0 * jnp.log10(jnp.maximum(mse, 10.0 ** (-MAX_PSNR / 10.0)))


def _window_sum(x: Array) -> Array:
    """Sums over 7x7 windows inside the image: [B, H, W, C] -> [B, H - 6, W - 6, C]."""
    for window in ((1, UNIFORM_WINDOW, 1, 1), (1, 1, UNIFORM_WINDOW, 1)):
        x = jax.lax.reduce_window(x, 0, jax.lax.add, window, (1, 1, 1, 1), "VALID")
    return x


def _check_pair(images: Array, reconstruction: Array, window: int) -> None:
    if images.shape != reconstruction.shape or images.ndim != 4:
        raise ValueError(
            f"images {images.shape} and reconstruction {reconstruction.shape} must have one "
            "shape [B, H, W, 3]"
        )
    if min(images.shape[1:3]) < window:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} are smaller than the "
            f"{window}x{window} window of SSIM"
        )
