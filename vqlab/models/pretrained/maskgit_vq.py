"""MaskGIT's VQGAN, whose codes TiTok learns to predict and whose decoder it borrows.

1d-tokenizer's modeling/modules/maskgit_vqgan.py, the PyTorch form of MaskGIT's. Its residual blocks
leave their input out where the width changes: the shortcut convolution is applied to what the block
itself has made. Trained so, it has to stay so. Stages are numbered from full resolution inwards.

Networks of vqlab take and give pixels in [-1, 1]; this one's own range is [0, 1].
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.models.kl_autoencoder import NORM_GROUPS, GroupNorm, Upsample
from vqlab.models.tokenizer import check_images
from vqlab.nn.layers import conv
from vqlab.ops.codebook import nearest_codeword, select_codewords
from vqlab.ops.mesh import reshape, split_batch


class ResidualBlock(nn.Module):
    """Twice norm, swish and a 3x3 convolution without bias, beside the identity.

    Where the width changes what is added is a 1x1 convolution of the branch and not of the input.
    [B,h,w,C] -> [B,h,w,features] in `dtype`.
    """

    features: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w features"]:
        options = {"use_bias": False, "dtype": self.dtype}
        y = nn.swish(GroupNorm(dtype=self.dtype, name="norm1")(x))
        y = conv(self.features, 3, **options, name="conv1")(y)
        y = nn.swish(GroupNorm(dtype=self.dtype, name="norm2")(y))
        y = conv(self.features, 3, **options, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, **options, name="shortcut")(y)
        return x + y


class BlockStack(nn.Module):
    """`depth` residual blocks at `features` channels, then each pixel four times if `up`."""

    features: int
    depth: int
    up: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W features"]:
        for i in range(self.depth):
            x = ResidualBlock(self.features, self.dtype, name=f"block{i}")(split_batch(x))
        return Upsample(self.dtype, name="up")(x) if self.up else x


class MaskGITEncoder(nn.Module):
    """images [B,H,W,3] in [-1,1] -> latents [B,h,w,latent_channels] float32.

    Attributes:
      widths: channels of each stage, multiples of 32; stages are joined by 2x2 means.
      depth: residual blocks per stage and after the last.
      latent_channels, dtype: of the latents, of the activations.
    """

    widths: Sequence[int]
    depth: int
    latent_channels: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        check_widths(self.widths, self.depth)
        x = (images + 1) / 2
        x = conv(self.widths[0], 3, use_bias=False, dtype=self.dtype, name="project_in")(x)
        for i, width in enumerate(self.widths):
            x = BlockStack(width, self.depth, dtype=self.dtype, name=f"stage{i}")(x)
            if i < len(self.widths) - 1:
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = BlockStack(self.widths[-1], self.depth, dtype=self.dtype, name="middle")(x)
        x = nn.swish(GroupNorm(dtype="float32", name="norm_out")(x))
        return conv(self.latent_channels, 1, name="project_out")(x)


class MaskGITDecoder(nn.Module):
    """latents [B,h,w,C] -> images [B,h*stride,w*stride,3] in [-1,1], float32, not clipped.

    Attributes as in `MaskGITEncoder`.
    """

    widths: Sequence[int]
    depth: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        check_widths(self.widths, self.depth)
        options = {"dtype": self.dtype}
        x = conv(self.widths[-1], 3, **options, name="project_in")(latents)
        x = BlockStack(self.widths[-1], self.depth, **options, name="middle")(x)
        for i, width in reversed(list(enumerate(self.widths))):
            x = BlockStack(width, self.depth, up=i > 0, **options, name=f"stage{i}")(x)
        # The last layer is float32: pixels are compared in float32.
        x = nn.swish(GroupNorm(dtype="float32", name="norm_out")(x))
        return 2 * conv(IMAGE_CHANNELS, 3, name="project_out")(x) - 1


class MaskGITVQ(nn.Module):
    """The whole tokenizer; nobody trains it here, its variables come in from outside.

    Attributes:
      widths, depth: of encoder and decoder; published (128, 128, 256, 256, 512) and 2.
      latent_channels, codebook_size: C and K; published 256 and 1024.
      dtype: of the activations; the choice of codewords is float32.
    """

    widths: Sequence[int] = (128, 128, 256, 256, 512)
    depth: int = 2
    latent_channels: int = 256
    codebook_size: int = 1024
    dtype: Dtype = "float32"

    def setup(self):
        self.encoder = MaskGITEncoder(self.widths, self.depth, self.latent_channels, self.dtype)
        self.decoder = MaskGITDecoder(self.widths, self.depth, self.dtype)
        shape = (self.codebook_size, self.latent_channels)
        self.codebook = self.param("codebook", nn.initializers.normal(), shape)

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return stride_of(self.widths)

    @property
    def example_side(self) -> int:
        """Side in pixels of an image that it takes."""
        return 2 * self.stride

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Images through codes and back, not clipped."""
        return self.decode(self.lookup(self.encode(images)))

    def encode(self, images: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """Codes in 0..K-1 of images in [-1, 1]: the nearest codewords, by squared distance."""
        check_images(images, self.stride)
        latents = self.encoder(images)
        tokens = reshape(latents, (-1, 1, self.latent_channels))
        indices = nearest_codeword(tokens, self.codebook[None], "euclidean")
        return reshape(indices, latents.shape[:-1])

    def lookup(self, codes: Int[Array, "B h w"]) -> Float[Array, "B h w C"]:
        """The codewords of codes, what the decoder reads."""
        return select_codewords(self.codebook[None], codes[..., None])[..., 0, :]

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Codewords to images in [-1, 1], not clipped."""
        return self.decoder(latents)


def stride_of(widths: Sequence[int]) -> int:
    """Pixels per code along each side, of networks with these widths."""
    return 2 ** (len(widths) - 1)


def check_widths(widths: Sequence[int], depth: int) -> None:
    """Raises ValueError for widths or depths that no such network has."""
    if not widths or any(width < 1 or width % NORM_GROUPS for width in widths):
        raise ValueError(f"widths {tuple(widths)} must be multiples of {NORM_GROUPS}")
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")


def decode_softly(
    logits: Float[Array, "B h w K"], codebook: Float[Array, "K C"]
) -> Float[Array, "B h w C"]:
    """The mean of the codewords by softmax(logits), float32 (titok.py, decode)."""
    shares = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.matmul(shares, codebook, precision=jax.lax.Precision.HIGHEST)
