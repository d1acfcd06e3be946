"""The whole tokenizer: images to indices and back (mgvq.py, class VQModel)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vqlab.models.codec import Codec, Sampling
from vqlab.models.codecs import IndexCodec, LatentCodec
from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.nn.layers import GroupedPointwise
from vqlab.nn.quantized import Quantized
from vqlab.ops.mesh import split_batch


class Reconstruction(NamedTuple):
    """images: [B, H, W, 3] float32, not clipped. quantized: what the bottleneck returned."""

    images: jax.Array
    quantized: Quantized


class Tokenizer(nn.Module):
    """Encoder, bottleneck and decoder, with 1x1 convolutions around the bottleneck.

    These two convolutions have the bottleneck's `channel_groups` as feature groups, so nothing
    mixes across groups next to their codebooks. They and the bottleneck are float32 whatever the
    dtype of the other activations.

    A Gaussian bottleneck takes the 2C moments of the C channels that the decoder reads; a quantizer
    takes and gives the same C. Where it `has_indices`, `decode_indices` inverts them.
    """

    encoder: nn.Module
    quantizer: nn.Module
    decoder: nn.Module

    objective: ClassVar[str] = "reconstruction"  # what trains it, where a config does not say
    beginning: ClassVar[str] = ""  # what it needs to begin with, in words
    position_axes: ClassVar[tuple[str, ...]] = ("h", "w")

    def setup(self):
        if self.encoder.stride != self.decoder.stride:
            raise ValueError(
                f"the encoder's stride is {self.encoder.stride}, "
                f"the decoder's {self.decoder.stride}"
            )
        channels, groups = self.encoder.latent_channels, self.quantizer.channel_groups
        if channels != self.quantizer.input_channels:
            raise ValueError(
                f"the encoder makes {channels} latent channels, "
                f"the quantizer takes {self.quantizer.input_channels}"
            )
        if channels % groups:
            raise ValueError(f"{channels} latent channels do not split into {groups} groups")
        self.quant_conv = GroupedPointwise(channels, groups)
        self.post_quant_conv = GroupedPointwise(self.quantizer.latent_channels, groups)

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return self.encoder.stride

    @property
    def last_kernel_path(self) -> tuple[str, ...]:
        """Where the decoder's last kernel lies in the parameters."""
        return ("decoder", *self.decoder.last_kernel_path)

    @property
    def sizes(self) -> dict[str, int]:
        """What users ask for by name."""
        return {"stride": self.stride}

    @property
    def facts(self) -> dict[str, str]:
        """The same in words, for reports and model cards."""
        return {"stride": f"{self.stride} pixels"}

    @property
    def example_side(self) -> int:
        """Side in pixels of an image that it takes."""
        return 2 * self.stride

    @nn.nowrap
    def codec(self, sampling: Sampling | None = None) -> Codec:
        """The network in use; it draws nothing, so `sampling` makes no difference."""
        return (IndexCodec if self.quantizer.has_indices else LatentCodec)(self)

    @nn.nowrap
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        """{}: all its parts are trained."""
        return {}

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, Any]) -> Mapping:
        """Its parameters after what its bottleneck does beside gradient steps."""
        if not update:
            return params
        return {**params, "quantizer": self.quantizer.post_update(params["quantizer"], update)}

    @nn.nowrap
    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless square images of `size` pixels can be encoded."""
        if size % self.stride:
            raise ValueError(f"{name}={size} is no multiple of the model's stride {self.stride}")

    @nn.nowrap
    def check_images(self, images: Any) -> None:
        """Raises ValueError unless images [B, H, W, 3] can be encoded."""
        check_images(images, self.stride)

    @nn.nowrap
    def num_positions(self, height: int, width: int) -> int:
        """Latent positions of an image of so many pixels."""
        return (height // self.stride) * (width // self.stride)

    def __call__(
        self,
        images: Array,
        *,
        train: bool = False,
        num_groups: int | None = None,
    ) -> Reconstruction:
        """Encodes, quantizes and decodes images [B,H,W,3] in [-1, 1], sides multiples of `stride`.

        Only the first `num_groups` groups (None: all) reach the decoder, the others are zeros.

        `train` uses batch statistics, updates "batch_stats" and "codebook_stats", and draws from
        the streams of the bottleneck: "mask" and "reseed", or "posterior".
        """
        quantized = self._quantize(images, train=train, num_groups=num_groups)
        return Reconstruction(self.decode(quantized.latents, train=train), quantized)

    def encode(self, images: Array) -> Quantized:
        """Images [B,H,W,3] in [-1,1] to latents [B,h,w,C] and indices [B,h,w,G]; h = H / stride."""
        return self._quantize(images, train=False, num_groups=None)

    def encode_unquantized(self, images: Array, *, train: bool = False) -> Array:
        """What the bottleneck takes: latents [B,h,w,C], or moments [B,h,w,2C] of a Gaussian one."""
        self.check_images(images)
        return split_batch(self.quant_conv(self.encoder(images, train=train)))

    def decode(self, latents: Array, *, train: bool = False) -> Float[Array, "B H W 3"]:
        """Quantized latents [B,h,w,C] to images [B,H,W,3], not clipped."""
        channels = self.quantizer.latent_channels
        if latents.ndim != 4 or latents.shape[-1] != channels:
            raise ValueError(f"latents {latents.shape} must be [B, h, w, {channels}]")
        return self.decoder(self.post_quant_conv(split_batch(latents)), train=train)

    def decode_indices(
        self, indices: Array, *, num_groups: int | None = None
    ) -> Float[Array, "B H W 3"]:
        """Indices [B,h,w,G] in 0..K-1 to images, from the first `num_groups` groups (None: all)."""
        if not self.quantizer.has_indices:
            raise ValueError(f"{type(self.quantizer).__name__} has no indices: decode its latents")
        groups = self.quantizer.num_groups
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError(f"indices must be integers, not {indices.dtype}")
        if indices.ndim != 4 or indices.shape[-1] != groups:
            raise ValueError(f"indices {indices.shape} must be [B, h, w, {groups}]")
        return self.decode(self.quantizer.lookup(indices, num_groups=num_groups))

    def _quantize(self, images: Array, *, train: bool, num_groups: int | None) -> Quantized:
        latents = self.encode_unquantized(images, train=train)
        return self.quantizer(latents, train=train, num_groups=num_groups)


def check_images(images: Array | np.ndarray, stride: int) -> None:
    """Raises ValueError unless `images` is [B,H,W,3] with sides that are multiples of `stride`."""
    if images.ndim != 4 or images.shape[-1] != IMAGE_CHANNELS:
        raise ValueError(f"images {images.shape} must be [B, H, W, {IMAGE_CHANNELS}]")
    height, width = images.shape[1:3]
    if height % stride or width % stride or not height * width:
        raise ValueError(f"images of {height}x{width}: both sides must be multiples of {stride}")
