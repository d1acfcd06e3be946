"""The convolutional encoder and decoder of latent diffusion's KL autoencoders.

LDM's model.py, and MAR's vae.py, whose KL-16 is the latent space of MAR and of Semanticist. Stages
are numbered from full resolution inwards in both networks; each ends with its resampling.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.nn.layers import FLOAT32, conv, conv_init, precision_of
from vqlab.ops.mesh import repeat, split_batch

NORM_GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """Over 32 groups of channels and all positions; float32 statistics in two passes."""

    num_groups: int = NORM_GROUPS
    epsilon: float = 1e-6
    use_fast_variance: bool = False


class ResidualBlock(nn.Module):
    """Twice norm, swish and a 3x3 convolution, beside a 1x1 shortcut where the width changes.

    [B,h,w,C] -> [B,h,w,features] in `dtype`.
    """

    features: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w features"]:
        y = nn.swish(GroupNorm(dtype=self.dtype, name="norm1")(x))
        y = conv(self.features, 3, dtype=self.dtype, name="conv1")(y)
        y = nn.swish(GroupNorm(dtype=self.dtype, name="norm2")(y))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return x + y


class SelfAttention(nn.Module):
    """Softmax attention with one head over all positions, beside the identity.

    [B,h,w,C] -> [B,h,w,C] in `dtype`; the attention itself is float32.
    """

    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        height, width, features = x.shape[1:]
        y = GroupNorm(dtype=self.dtype, name="norm")(x)
        q, k, v = (
            rearrange(
                conv(features, 1, dtype=self.dtype, name=name)(y).astype(jnp.float32),
                "b h w c -> b (h w) c",
            )
            for name in ("q", "k", "v")
        )
        logits = jnp.einsum("bic,bjc->bij", q, k, precision=FLOAT32) * features**-0.5
        weights = jax.nn.softmax(logits, axis=-1)
        y = jnp.einsum("bij,bjc->bic", weights, v, precision=FLOAT32)
        y = rearrange(y, "b (h w) c -> b h w c", h=height, w=width)
        return x + conv(features, 1, dtype=self.dtype, name="proj")(y)


class Downsample(nn.Module):
    """3x3 convolution of stride 2, zeros padded below and right: [B,2h,2w,C] -> [B,h,w,C]."""

    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return nn.Conv(
            x.shape[-1],
            (3, 3),
            strides=2,
            padding=((0, 1), (0, 1)),
            dtype=self.dtype,
            precision=precision_of(self.dtype),
            kernel_init=conv_init,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Every pixel four times, then a 3x3 convolution: [B,h,w,C] -> [B,2h,2w,C]."""

    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
        x = repeat(x, "b h w c -> b (h 2) (w 2) c")
        return conv(x.shape[-1], 3, dtype=self.dtype, name="conv")(x)


_RESAMPLING: dict[str, type[nn.Module]] = {"down": Downsample, "up": Upsample}


class Stage(nn.Module):
    """`depth` residual blocks at `features` channels, then `resample` if any.

    With `attention` each block is followed by attention.
    """

    features: int
    depth: int
    attention: bool = False
    resample: str = ""  # "down", "up" or ""
    dtype: Dtype = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W features"]:
        block, attention = _layers(self.remat)
        for i in range(self.depth):
            x = block(self.features, dtype=self.dtype, name=f"block{i}")(split_batch(x))
            if self.attention:
                x = attention(dtype=self.dtype, name=f"attention{i}")(split_batch(x))
        if self.resample:
            x = _RESAMPLING[self.resample](dtype=self.dtype, name=self.resample)(split_batch(x))
        return split_batch(x)


class Middle(nn.Module):
    """A residual block, attention and a residual block at the lowest resolution."""

    dtype: Dtype = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        block, attention = _layers(self.remat)
        features = x.shape[-1]
        x = block(features, dtype=self.dtype, name="block0")(split_batch(x))
        x = attention(dtype=self.dtype, name="attention")(split_batch(x))
        x = block(features, dtype=self.dtype, name="block1")(split_batch(x))
        return split_batch(x)


class KLEncoder(nn.Module):
    """images [B,H,W,3] -> [B,H/stride,W/stride,latent_channels] in float32.

    Attributes:
      widths: channels of each stage, multiples of 32.
      depth: residual blocks per stage.
      attention_stages: the stages whose blocks are each followed by attention.
      latent_channels: channels that the bottleneck takes; 2C for a Gaussian one of C channels.
      dtype: of the activations; parameters are float32.
      remat: recompute each block in the backward pass instead of storing its activations.
    """

    widths: Sequence[int]
    depth: int
    attention_stages: Sequence[int]
    latent_channels: int
    dtype: Dtype = "float32"
    remat: bool = False

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.widths) - 1)

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B h w C"]:
        """`train` makes no difference here."""
        _check(self.widths, self.depth, self.attention_stages)
        options = {"dtype": self.dtype, "remat": self.remat}
        x = conv(self.widths[0], 3, dtype=self.dtype, name="project_in")(images)
        for i, width in enumerate(self.widths):
            attention = i in self.attention_stages
            resample = "down" if i < len(self.widths) - 1 else ""
            x = Stage(width, self.depth, attention, resample, **options, name=f"stage{i}")(x)
        x = Middle(**options, name="middle")(x)
        # What the bottleneck reads is float32.
        x = nn.swish(GroupNorm(dtype="float32", name="norm_out")(x))
        return conv(self.latent_channels, 3, name="project_out")(x)


class KLDecoder(nn.Module):
    """latents [B,h,w,C] -> images [B,h*stride,w*stride,3] in float32, not clipped.

    Attributes as in `KLEncoder`, still listed from full resolution inwards; the published decoders
    have one more block per stage than their encoders.
    """

    widths: Sequence[int]
    depth: int
    attention_stages: Sequence[int]
    dtype: Dtype = "float32"
    remat: bool = False

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def last_kernel_path(self) -> tuple[str, ...]:
        """Where the last convolution's kernel lies in this module's parameters."""
        return ("project_out", "kernel")

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B h w C"], *, train: bool = False
    ) -> Float[Array, "B H W 3"]:
        """`train` makes no difference here."""
        _check(self.widths, self.depth, self.attention_stages)
        options = {"dtype": self.dtype, "remat": self.remat}
        x = conv(self.widths[-1], 3, dtype=self.dtype, name="project_in")(latents)
        x = Middle(**options, name="middle")(x)
        for i, width in reversed(list(enumerate(self.widths))):
            attention = i in self.attention_stages
            resample = "up" if i else ""
            x = Stage(width, self.depth, attention, resample, **options, name=f"stage{i}")(x)
        # The last layer is float32: pixels are compared in float32.
        x = nn.swish(GroupNorm(dtype="float32", name="norm_out")(x))
        return conv(IMAGE_CHANNELS, 3, name="project_out")(x)


def _layers(remat: bool) -> tuple[type[nn.Module], type[nn.Module]]:
    """The classes of residual blocks and of attention."""
    if remat:
        return nn.remat(ResidualBlock), nn.remat(SelfAttention)
    return ResidualBlock, SelfAttention


def _check(widths: Sequence[int], depth: int, attention_stages: Sequence[int]) -> None:
    if len(widths) < 2:
        raise ValueError(f"an autoencoder needs at least 2 stages, widths has {len(widths)}")
    if any(width < 1 or width % NORM_GROUPS for width in widths):
        raise ValueError(f"widths {tuple(widths)} must be multiples of {NORM_GROUPS}")
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")
    if outside := sorted(set(attention_stages) - set(range(len(widths)))):
        raise ValueError(f"attention_stages has {outside}; the stages are 0..{len(widths) - 1}")
