"""What a diffusion decoder denoises: the pixels themselves, or the latents of an autoencoder.

The autoencoder is never trained here: its parameters come in as an argument, and no gradient goes
through it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.nn.bottleneck import draw_posterior


@dataclasses.dataclass(frozen=True)
class PixelSpace:
    """Latents are the images, [B, H, W, 3] in [-1, 1]. `variables` is {} everywhere."""

    channels: int = IMAGE_CHANNELS
    stride: int = 1

    description: ClassVar[str] = "pixels"

    def frozen_parts(self) -> dict[str, nn.Module]:
        """{}: there is no autoencoder."""
        return {}

    def __post_init__(self):
        if (self.channels, self.stride) != (IMAGE_CHANNELS, 1):
            raise ValueError(
                f"pixels have {IMAGE_CHANNELS} channels and stride 1, "
                f"not {self.channels} and {self.stride}"
            )

    def moments(self, variables: Mapping[str, Any], images: Float[Array, "B H W 3"]) -> None:
        """None: pixels have no posterior."""
        return None

    def encode(
        self, variables: Mapping[str, Any], images: Float[Array, "B H W 3"], key: jax.Array
    ) -> Float[Array, "B H W 3"]:
        """The images in float32; `key` is not used."""
        return images.astype(jnp.float32)

    def from_moments(self, moments: Array, key: jax.Array) -> Array:
        """Raises ValueError: moments belong to an autoencoder."""
        raise ValueError("a pixel space has no moments; the batch must hold images only")

    def decode(
        self, variables: Mapping[str, Any], latents: Float[Array, "B H W C"]
    ) -> Float[Array, "B H W 3"]:
        """The latents as images, not clipped."""
        _check_channels(latents, self.channels)
        return latents.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class AutoencoderSpace:
    """Latents of a frozen variational autoencoder, times a factor that brings them near unit size.

    Attributes:
      autoencoder: a `Tokenizer` whose bottleneck has a posterior; its `variables` come in from
        outside.
      scaling_factor: latents are the posterior's draws times this, 0.2325 for MAR's KL-16.
    """

    autoencoder: nn.Module
    scaling_factor: float = 0.2325

    def __post_init__(self):
        if not self.autoencoder.quantizer.has_posterior:
            raise ValueError(
                "the autoencoder of a latent space needs a gaussian_bottleneck, "
                f"not {type(self.autoencoder.quantizer).__name__}"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor={self.scaling_factor} must be above 0")

    @property
    def description(self) -> str:
        """What is denoised, in words."""
        return f"{self.channels} channels of a frozen autoencoder"

    def frozen_parts(self) -> dict[str, nn.Module]:
        """{"latent_space": the autoencoder}, by the name of its variables."""
        return {"latent_space": self.autoencoder}

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self.autoencoder.quantizer.latent_channels

    @property
    def stride(self) -> int:
        """Pixels per latent along each side."""
        return self.autoencoder.stride

    def moments(
        self, variables: Mapping[str, Any], images: Float[Array, "B H W 3"]
    ) -> Float[Array, "B h w C2"]:
        """Means and log-variances of the unscaled latents; images in [-1, 1]."""
        moments = self.autoencoder.apply(variables, images, method="encode_unquantized")
        return jax.lax.stop_gradient(moments)

    def encode(
        self, variables: Mapping[str, Any], images: Float[Array, "B H W 3"], key: jax.Array
    ) -> Float[Array, "B h w C"]:
        """A scaled draw from the posterior of images in [-1, 1], float32."""
        return self.from_moments(self.moments(variables, images), key)

    def from_moments(
        self, moments: Float[Array, "B h w C2"], key: jax.Array
    ) -> Float[Array, "B h w C"]:
        """A scaled draw from the posterior with these moments, float32."""
        if moments.shape[-1] != 2 * self.channels:
            raise ValueError(
                f"moments {moments.shape} must have {2 * self.channels} channels: these are "
                "of another autoencoder"
            )
        return draw_posterior(moments, key) * self.scaling_factor

    def decode(
        self, variables: Mapping[str, Any], latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B H W 3"]:
        """Scaled latents to images [B, h stride, w stride, 3], not clipped."""
        _check_channels(latents, self.channels)
        unscaled = latents.astype(jnp.float32) / self.scaling_factor
        images = self.autoencoder.apply(variables, unscaled, method="decode")
        return jax.lax.stop_gradient(images)


def _check_channels(latents: Array, channels: int) -> None:
    if latents.ndim != 4 or latents.shape[-1] != channels:
        raise ValueError(f"latents {latents.shape} must be [B, h, w, {channels}]")
