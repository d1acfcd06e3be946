"""From logits of another tokenizer's codes to images: by that tokenizer, frozen or trained on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from vqlab.models.pretrained.maskgit_vq import (
    MaskGITDecoder,
    MaskGITVQ,
    decode_softly,
    stride_of,
)

NAME = "pixel_tokenizer"  # of its variables among the frozen ones


@dataclasses.dataclass(frozen=True)
class FrozenPixelTokenizer:
    """The pixel tokenizer of TiTok's stage 1, whose codes are what is learned.

    It is no part of a network's parameters: its variables come in as an argument, and no gradient
    goes through it.
    """

    network: MaskGITVQ

    description: ClassVar[str] = "codes of a frozen pixel tokenizer"

    @property
    def num_codes(self) -> int:
        """Codes that logits are of."""
        return self.network.codebook_size

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return self.network.stride

    def frozen_parts(self) -> dict[str, nn.Module]:
        """The tokenizer, by the name of its variables."""
        return {NAME: self.network}

    def codes(
        self, frozen: Mapping[str, Any], images: Float[Array, "B H W 3"]
    ) -> Int[Array, "B h w"]:
        """The codes of images in [-1, 1]."""
        return self.network.apply(jax.lax.stop_gradient(frozen[NAME]), images, method="encode")

    def decode(
        self, frozen: Mapping[str, Any], logits: Float[Array, "B h w K"]
    ) -> Float[Array, "B H W 3"]:
        """Images in [-1, 1] of the likeliest codes, clipped as the released code does it."""
        codes = jnp.argmax(logits, axis=-1)

        def decode(network, codes):
            return network.decode(network.lookup(codes))

        return jnp.clip(self.network.apply(frozen[NAME], codes, method=decode), -1.0, 1.0)


class SoftPixelDecoder(nn.Module):
    """The pixel tokenizer's codebook and decoder as trained parts, those of TiTok's stage 2.

    logits [B,h,w,K'] -> images [B,H,W,3] in [-1,1], not clipped. The decoder reads the mean of the
    codewords by softmax(logits), so that gradients reach what made the logits.

    Attributes:
      widths, depth, latent_channels, num_codes, dtype: as of `MaskGITVQ`.
    """

    widths: Sequence[int] = (128, 128, 256, 256, 512)
    depth: int = 2
    latent_channels: int = 256
    num_codes: int = 1024
    dtype: Dtype = "float32"

    description: ClassVar[str] = "codes, of which a decoder trained on makes pixels"
    last_kernel_path: ClassVar[tuple[str, ...]] = ("decoder", "project_out", "kernel")

    def setup(self):
        shape = (self.num_codes, self.latent_channels)
        self.codebook = self.param("codebook", nn.initializers.normal(), shape)
        self.decoder = MaskGITDecoder(self.widths, self.depth, self.dtype)

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return stride_of(self.widths)

    @nn.nowrap
    def frozen_parts(self) -> dict[str, nn.Module]:
        """{}: it is trained."""
        return {}

    def __call__(self, logits: Float[Array, "B h w K"]) -> Float[Array, "B H W 3"]:
        """Images, not clipped."""
        return self.decoder(self.mix(logits))

    def mix(self, logits: Float[Array, "B h w K"]) -> Float[Array, "B h w C"]:
        """What the decoder reads."""
        return decode_softly(logits, self.codebook)
