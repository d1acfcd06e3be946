"""Semanticist: a causal encoder of ordered concepts and a diffusion decoder that reads any prefix.

A quantizer between the two makes concepts codewords; without one they are numbers, as published.

The autoencoder whose latents the decoder denoises is no part of the module's parameters: it is
never trained here, and comes in as an argument where it is needed (Semanticist, figure 3;
diffuse_slot.py DiffuseSlot).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.models.codec import Codec, Sampling
from vqlab.models.concept_codec import ConceptCodec
from vqlab.models.concept_index_codec import ConceptIndexCodec
from vqlab.models.dit import DenoiserOutput
from vqlab.models.tokenizer import check_images
from vqlab.nn.quantized import Quantized


class Semanticist(nn.Module):
    """Images to S ordered concepts, and noisy latents with concepts to a prediction.

    Attributes:
      encoder: a `ConceptEncoder`.
      decoder: a `DiT`.
      process: the diffusion process, `DDPM` or `Flow`.
      latent_space: what is denoised, `PixelSpace` or `AutoencoderSpace`.
      quantizer: any bottleneck with indices that takes and gives concepts; None: they are numbers.
    """

    encoder: nn.Module
    decoder: nn.Module
    process: Any
    latent_space: Any
    quantizer: nn.Module | None = None

    objective: ClassVar[str] = "concept_diffusion"  # what trains it, where a config does not say
    beginning: ClassVar[str] = ""  # what it needs to begin with, in words
    position_axes: ClassVar[tuple[str, ...]] = ("S",)

    def __post_init__(self):
        if self.quantizer is not None:
            _check_quantizer(self.quantizer, self.encoder.concept_dim)
        super().__post_init__()

    def setup(self):
        pairs = {
            "num_concepts": (self.encoder.num_concepts, self.decoder.num_concepts),
            "concept_dim": (self.encoder.concept_dim, self.decoder.concept_dim),
        }
        for name, (made, taken) in pairs.items():
            if made != taken:
                raise ValueError(f"the encoder's {name} is {made}, the decoder's {taken}")
        channels = self.latent_space.channels
        if self.decoder.in_channels != channels:
            raise ValueError(
                f"the latents have {channels} channels, the decoder takes "
                f"{self.decoder.in_channels}"
            )
        if self.decoder.out_channels != self.process.output_channels(channels):
            raise ValueError(
                f"the process needs {self.process.output_channels(channels)} output channels, "
                f"the decoder has {self.decoder.out_channels}"
            )
        side = self.decoder.latent_size * self.latent_space.stride
        if self.encoder.image_size != side:
            raise ValueError(
                f"the encoder reads images of {self.encoder.image_size} pixels, the decoder's "
                f"latents are of images of {side}"
            )

    @property
    def num_concepts(self) -> int:
        """S."""
        return self.encoder.num_concepts

    @property
    def concept_dim(self) -> int:
        """D."""
        return self.encoder.concept_dim

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.encoder.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of what is denoised."""
        side = self.decoder.latent_size
        return side, side, self.decoder.in_channels

    @property
    def example_side(self) -> int:
        """Side in pixels of an image that it takes."""
        return self.image_size

    @nn.nowrap
    def num_positions(self, height: int, width: int) -> int:
        """S, whatever the image."""
        return self.num_concepts

    @nn.nowrap
    def codec(self, sampling: Sampling | None = None) -> Codec:
        """The network in use."""
        kind = ConceptCodec if self.quantizer is None else ConceptIndexCodec
        return kind(self, sampling or Sampling())

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, Any]) -> Mapping:
        """Its parameters after what its quantizer does beside gradient steps."""
        if not update:
            return params
        return {**params, "quantizer": self.quantizer.post_update(params["quantizer"], update)}

    @nn.nowrap
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        """Networks that decoding takes and nobody trains, by the names of their variables."""
        return self.latent_space.frozen_parts()

    @nn.nowrap
    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless square images of `size` pixels are decoded again."""
        if size != self.image_size:
            raise ValueError(f"{name}={size} is not the model's image size {self.image_size}")

    @nn.nowrap
    def check_images(self, images: Any) -> None:
        """Raises ValueError unless images [B, H, W, 3] can be encoded.

        Those of another size than `image_size` go through an interpolated position table.
        """
        check_images(images, self.encoder.patch_size)

    def __call__(self, images: Float[Array, "B H W 3"]) -> DenoiserOutput:
        """One pass through all parts, which makes their parameters."""
        x_t = jnp.zeros((len(images), *self.latent_shape))
        concepts = self.quantize(self.encode(images)).latents
        return self.denoise(x_t, jnp.zeros(len(images)), concepts)

    def encode(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B S D"]:
        """Concepts, each with mean 0 and variance 1 over its D numbers; images in [-1, 1].

        They are not quantized. `train` draws from the stream "drop_path".
        """
        self.check_images(images)
        return self.encoder(images, train=train)

    def quantize(
        self,
        concepts: Float[Array, "B S D"],
        *,
        train: bool = False,
        keep_mask: Bool[Array, "B S"] | None = None,
    ) -> Quantized:
        """Concepts as the decoder reads them, with indices [B,S,G]; as they are without quantizer.

        Those that are not kept count in no loss and no statistic of the quantizer. `train` updates
        "codebook_stats" and draws from the streams of the quantizer, "mask" and "reseed".
        """
        if self.quantizer is None:
            return Quantized(concepts, None, {}, {}, {})
        return self.quantizer(concepts, train=train, keep=keep_mask)

    def look_up(self, indices: Int[Array, "B S G"]) -> Float[Array, "B S D"]:
        """Quantized concepts as the decoder reads them."""
        return self.quantizer.lookup(indices)

    def denoise(
        self,
        x_t: Float[Array, "B h w C"],
        t: Array,
        concepts: Float[Array, "B S D"],
        *,
        keep_mask: Bool[Array, "B S"] | None = None,
    ) -> DenoiserOutput:
        """The decoder at times `t` [B] of the process; concepts not kept are learned nulls."""
        return self.decoder(x_t, self.process.network_time(t), concepts, keep_mask=keep_mask)


def _check_quantizer(quantizer: nn.Module, concept_dim: int) -> None:
    if not quantizer.has_indices:
        raise ValueError(
            f"quantized concepts are indices, and {type(quantizer).__name__} has none: give "
            "another quantizer, or none for concepts of numbers"
        )
    for name in ("input_channels", "latent_channels"):
        if (channels := getattr(quantizer, name)) != concept_dim:
            raise ValueError(f"the quantizer's {name} are {channels}, the concepts' {concept_dim}")
