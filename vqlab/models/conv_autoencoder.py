"""The convolutional encoder and decoder of MGVQ, a DC-AE (mgvq.py and efficientvit's dc_ae.py).

Stages are numbered from full resolution inwards, in both networks. Stage 0 of the published
models is empty: there the first convolution downsamples and the last one upsamples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.nn.conv import Downsample, Upsample, block
from vqlab.nn.layers import RMSNorm, activation, conv, norm
from vqlab.ops.mesh import split_batch
from vqlab.ops.pixel_shuffle import average_channels, duplicate_channels

IMAGE_CHANNELS = 3


class Stage(NamedTuple):
    """One resolution: `depth` blocks of `block_type` at `width` channels."""

    width: int
    depth: int
    block_type: str
    norm: str
    act: str


def stages(
    widths: Sequence[int],
    depths: Sequence[int],
    block_types: Sequence[str],
    norms: Sequence[str],
    acts: Sequence[str],
) -> list[Stage]:
    """The stages of a network from lists of one value a stage; ValueError when they do not fit."""
    lists = {"depths": depths, "block_types": block_types, "norms": norms, "acts": acts}
    if len(widths) < 2:
        raise ValueError(f"an autoencoder needs at least 2 stages, widths has {len(widths)}")
    for name, values in lists.items():
        if len(values) != len(widths):
            raise ValueError(f"{name} has {len(values)} values for {len(widths)} widths")
    if depths[0] < 0 or min(depths[1:]) < 1:
        raise ValueError(
            f"depths {tuple(depths)}: stage 0 takes 0 or more blocks, the others 1 or more"
        )
    for width, name in zip(widths, block_types, strict=True):
        block(name)
        if name == "evit_glu" and width % 32:
            raise ValueError(f"evit_glu blocks need a multiple of 32 channels, widths has {width}")
    for name in norms:
        norm(name)
    for name in acts:
        activation(name)
    return [Stage(*values) for values in zip(widths, *lists.values(), strict=True)]


class BlockStack(nn.Module):
    """`depth` equal blocks in a row, each recomputed in the backward pass when `remat`."""

    stage: Stage
    remat: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w C"]:
        block_class = block(self.stage.block_type)
        if self.remat:
            block_class = nn.remat(block_class, static_argnums=(2,))  # train; self is argument 0
        for i in range(self.stage.depth):
            layer = block_class(self.stage.norm, self.stage.act, dtype=self.dtype, name=f"block{i}")
            x = layer(split_batch(x), train)
        return split_batch(x)


class ConvEncoder(nn.Module):
    """images [B,H,W,3] -> latents [B,H/stride,W/stride,latent_channels] in float32.

    Attributes:
      widths, depths, block_types: channels, number of blocks and kind of block ("res" or
        "evit_glu") per stage, from full resolution inwards. With depths[0] = 0 the first
        convolution goes straight to widths[1] at half resolution and widths[0] is unused.
      norm, act: of every block.
      latent_channels: C; divides widths[-1] (averaging shortcut).
      dtype: of the activations; parameters are float32.
      remat: recompute each block in the backward pass instead of storing its activations.
    """

    widths: Sequence[int]
    depths: Sequence[int]
    block_types: Sequence[str]
    norm: str
    act: str
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
        n = len(self.widths)
        plan = stages(self.widths, self.depths, self.block_types, (self.norm,) * n, (self.act,) * n)
        x = images.astype(self.dtype)
        if self.depths[0]:
            x = conv(self.widths[0], 3, dtype=self.dtype, name="project_in")(x)
        else:
            x = Downsample(self.widths[1], shortcut=False, dtype=self.dtype, name="project_in")(x)
        for i, stage in enumerate(plan):
            if not stage.depth:
                continue
            x = BlockStack(stage, self.remat, dtype=self.dtype, name=f"stage{i}")(x, train)
            if i < n - 1:
                x = Downsample(self.widths[i + 1], dtype=self.dtype, name=f"down{i}")(x)
        x = x.astype(jnp.float32)  # the code choice hangs on these values
        shortcut = average_channels(x, self.latent_channels)
        return conv(self.latent_channels, 3, name="project_out")(x) + shortcut


class ConvDecoder(nn.Module):
    """latents [B,h,w,C] -> images [B,h*stride,w*stride,3] in float32, not clipped.

    Attributes as in `ConvEncoder`, still listed from full resolution inwards, with one norm and one
    activation per stage. C divides widths[-1] (duplicating shortcut).
    """

    widths: Sequence[int]
    depths: Sequence[int]
    block_types: Sequence[str]
    norms: Sequence[str]
    acts: Sequence[str]
    dtype: Dtype = "float32"
    remat: bool = False

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def last_kernel_path(self) -> tuple[str, ...]:
        """Where the last convolution's kernel lies in this module's parameters."""
        return ("project_out", "kernel") if self.depths[0] else ("project_out", "conv", "kernel")

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B h w C"], *, train: bool = False
    ) -> Float[Array, "B H W 3"]:
        plan = stages(self.widths, self.depths, self.block_types, self.norms, self.acts)
        n = len(plan)
        x = latents.astype(self.dtype)
        shortcut = duplicate_channels(x, self.widths[-1])
        x = conv(self.widths[-1], 3, dtype=self.dtype, name="project_in")(x) + shortcut
        for i, stage in reversed(list(enumerate(plan))):
            if not stage.depth:
                continue
            if i < n - 1:
                x = Upsample(stage.width, dtype=self.dtype, name=f"up{i}")(x)
            x = BlockStack(stage, self.remat, dtype=self.dtype, name=f"stage{i}")(x, train)
        x = nn.relu(RMSNorm(name="norm_out")(x))
        if self.depths[0]:  # the last layer is float32: pixels are compared in float32
            return conv(IMAGE_CHANNELS, 3, name="project_out")(x)
        return Upsample(IMAGE_CHANNELS, shortcut=False, name="project_out")(x)
