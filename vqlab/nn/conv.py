"""The blocks of DC-AE: residual, EfficientViT with a gated bottleneck, down- and upsampling."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.nn.attention import LinearAttention
from vqlab.nn.layers import DepthwiseConv, activation, conv, norm
from vqlab.ops.pixel_shuffle import (
    average_channels,
    duplicate_channels,
    pixel_shuffle,
    pixel_unshuffle,
)


class ResBlock(nn.Module):
    """x + norm(conv3x3(act(conv3x3(x)))): [B,h,w,C] -> [B,h,w,C]."""

    norm: str
    act: str
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w C"]:
        features = x.shape[-1]
        y = conv(features, 3, dtype=self.dtype, name="conv1")(x)
        y = activation(self.act)(y)
        y = conv(features, 3, use_bias=False, dtype=self.dtype, name="conv2")(y)
        return x + norm(self.norm)(dtype=self.dtype, name="norm")(y, train=train)


class GLUMBConv(nn.Module):
    """Gated inverted bottleneck: 1x1 to 2*4C, act, depthwise 3x3, a * act(b), 1x1 back to C, norm.

    [B,h,w,C] -> [B,h,w,C], without the residual.
    """

    norm: str
    act: str
    expand_ratio: int = 4
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w C"]:
        features, act = x.shape[-1], activation(self.act)
        hidden = 2 * self.expand_ratio * features
        y = act(conv(hidden, 1, dtype=self.dtype, name="expand")(x))
        y = DepthwiseConv(dtype=self.dtype, name="depthwise")(y)
        value, gate = jnp.split(y, 2, axis=-1)
        y = conv(features, 1, use_bias=False, dtype=self.dtype, name="project")(value * act(gate))
        return norm(self.norm)(dtype=self.dtype, name="norm")(y, train=train)


class EfficientViTBlock(nn.Module):
    """x + LinearAttention(x), then x + GLUMBConv(x): [B,h,w,C] -> [B,h,w,C], C a multiple of 32."""

    norm: str
    act: str
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w C"]:
        x = x + LinearAttention(self.norm, dtype=self.dtype, name="attention")(x, train)
        return x + GLUMBConv(self.norm, self.act, dtype=self.dtype, name="glu")(x, train)


BLOCKS: dict[str, type[nn.Module]] = {"res": ResBlock, "evit_glu": EfficientViTBlock}


def block(name: str) -> type[nn.Module]:
    """The block class called `name`, used as block(name)(norm, act, dtype=...)(x, train)."""
    if name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}; choose from {sorted(BLOCKS)}")
    return BLOCKS[name]


class Downsample(nn.Module):
    """Halves the sides: conv3x3 to features/4 and pixel-unshuffle by 2, plus a shortcut.

    [B,h,w,C] -> [B,h/2,w/2,features]. The shortcut unshuffles and averages
    channels; it needs 4C to be a multiple of `features`.
    """

    features: int
    shortcut: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B g v D"]:
        if self.features % 4:
            raise ValueError(f"downsampling makes a multiple of 4 channels, not {self.features}")
        y = pixel_unshuffle(conv(self.features // 4, 3, dtype=self.dtype, name="conv")(x), 2)
        if self.shortcut:
            y = y + average_channels(pixel_unshuffle(x, 2), self.features)
        return y


class Upsample(nn.Module):
    """Doubles the sides: conv3x3 to 4*features and pixel-shuffle by 2, plus a shortcut.

    [B,h,w,C] -> [B,2h,2w,features]. The shortcut duplicates channels and
    shuffles; it needs 4*features to be a multiple of C.
    """

    features: int
    shortcut: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W D"]:
        y = pixel_shuffle(conv(4 * self.features, 3, dtype=self.dtype, name="conv")(x), 2)
        if self.shortcut:
            y = y + pixel_shuffle(duplicate_channels(x, 4 * self.features), 2)
        return y
