"""TiTok: an image as a short sequence of discrete tokens (arXiv 2406.07550; titok.py)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vqlab.models.codec import Codec, Sampling, Weights
from vqlab.models.titok_codec import TiTokCodec
from vqlab.models.tokenizer import Reconstruction, check_images
from vqlab.nn.quantized import Quantized
from vqlab.ops.mesh import split_batch


class Prediction(NamedTuple):
    """logits: [B, h, w, K'] float32 of a frozen tokenizer's codes. quantized: the bottleneck's."""

    logits: jax.Array
    quantized: Quantized


class TiTok(nn.Module):
    """A transformer into S tokens, a quantizer of each, a transformer back from mask tokens.

    What the second one gives are images, or the logits of another tokenizer's codes, which that
    tokenizer's decoder turns into images: frozen in stage 1, where only codes are learned, or a
    trained copy in stage 2, where the encoder has finished.

    Attributes:
      encoder: a `TiTokEncoder`. quantizer: any bottleneck with indices. decoder: a `TiTokDecoder`.
      pixel_tokenizer: None where the decoder gives images; a `FrozenPixelTokenizer` or a
        `SoftPixelDecoder` where it gives logits.
      trains_encoder: False: encoder and quantizer stay as they are, whatever trains the rest.
    """

    encoder: nn.Module
    quantizer: nn.Module
    decoder: nn.Module
    pixel_tokenizer: Any = None
    trains_encoder: bool = True

    position_axes: ClassVar[tuple[str, ...]] = ("S",)

    def setup(self):
        for name in ("image_size", "num_tokens"):
            made, taken = getattr(self.encoder, name), getattr(self.decoder, name)
            if made != taken:
                raise ValueError(f"the encoder's {name} is {made}, the decoder's {taken}")
        channels = self.encoder.latent_channels
        if channels != self.quantizer.input_channels:
            raise ValueError(
                f"the encoder makes {channels} latent channels, "
                f"the quantizer takes {self.quantizer.input_channels}"
            )
        if not self.quantizer.has_indices:
            raise ValueError(f"TiTok's tokens are indices; {self.quantizer.title} has none")
        self._check_pixels()

    def _check_pixels(self) -> None:
        pixels, codes = self.pixel_tokenizer, self.decoder.num_codes
        if pixels is None:
            if codes:
                raise ValueError(
                    f"the decoder gives logits of {codes} codes and no pixel_tokenizer makes "
                    "images of them: give one, or num_codes=0"
                )
            return
        if pixels.num_codes != codes:
            raise ValueError(
                f"the pixel tokenizer has {pixels.num_codes} codes, the decoder predicts {codes}"
            )
        if pixels.stride != self.decoder.patch_size:
            raise ValueError(
                f"the pixel tokenizer's stride is {pixels.stride}, "
                f"the decoder's patch_size {self.decoder.patch_size}"
            )

    @property
    def objective(self) -> str:
        """What trains it, where a config does not say."""
        return "code_prediction" if self.frozen_parts() else "reconstruction"

    @property
    def beginning(self) -> str:
        """What to say where a run of it would begin from nothing; "" where it may."""
        if self.trains_encoder:
            return ""
        return (
            "stage 2 of TiTok trains no encoder: set --config.init_from to the workdir of stage 1, "
            "which holds encoder, codebook and pixel tokenizer"
        )

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.encoder.image_size

    @property
    def num_tokens(self) -> int:
        """S."""
        return self.encoder.num_tokens

    @property
    def last_kernel_path(self) -> tuple[str, ...]:
        """Where the kernel that makes the pixels lies in the parameters."""
        if self.pixel_tokenizer is None:
            return ("decoder", "project_out", "kernel")
        return ("pixel_tokenizer", *self.pixel_tokenizer.last_kernel_path)

    @property
    def sizes(self) -> dict[str, int]:
        """What users ask for by name."""
        return {"num_tokens": self.num_tokens, "image_size": self.image_size}

    @property
    def facts(self) -> dict[str, str]:
        """The same in words, for reports and model cards."""
        pixels = self.pixel_tokenizer
        return {
            "image size": f"{self.image_size} pixels",
            "tokens": f"{self.num_tokens}",
            "what the decoder gives": "pixels" if pixels is None else pixels.description,
        }

    @property
    def example_side(self) -> int:
        """Side in pixels of an image that it takes."""
        return self.image_size

    @nn.nowrap
    def codec(self, sampling: Sampling | None = None) -> Codec:
        """The network in use; it draws nothing, so `sampling` makes no difference."""
        return TiTokCodec(self)

    @nn.nowrap
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        """Networks that decoding takes and nobody trains, by the names of their variables."""
        return {} if self.pixel_tokenizer is None else self.pixel_tokenizer.frozen_parts()

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, Any]) -> Mapping:
        """Its parameters after what its bottleneck does beside gradient steps."""
        if not update:
            return params
        return {**params, "quantizer": self.quantizer.post_update(params["quantizer"], update)}

    @nn.nowrap
    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless square images of `size` pixels fit the table of positions."""
        if size != self.image_size:
            raise ValueError(
                f"{name}={size} is not the model's image size {self.image_size}, "
                "for which its positions are learned"
            )

    @nn.nowrap
    def check_images(self, images: Any) -> None:
        """Raises ValueError unless images [B, H, W, 3] can be encoded."""
        check_images(images, self.encoder.patch_size)
        for name, size in zip(("height", "width"), images.shape[1:3], strict=True):
            self.check_image_size(size, name)

    @nn.nowrap
    def num_positions(self, height: int, width: int) -> int:
        """S, whatever the image."""
        return self.num_tokens

    def __call__(self, images: Array, *, train: bool = False) -> Reconstruction | Prediction:
        """Encodes, quantizes and decodes images [B,H,W,3] in [-1, 1].

        With a frozen pixel tokenizer it only makes parameters; see `predict`. `train` updates
        "codebook_stats" and draws from the streams of the bottleneck, if any.
        """
        if self.frozen_parts():
            if not self.is_initializing():
                raise ValueError(
                    "this TiTok gives logits of a frozen tokenizer's codes and no images: its "
                    "objective is code_prediction"
                )
            return self.predict(images, train=train)
        quantized = self._quantize(images, train=train)
        return Reconstruction(self.decode(quantized.latents), quantized)

    def predict(self, images: Array, *, train: bool = False) -> Prediction:
        """Logits of the pixel tokenizer's codes of images [B,H,W,3] in [-1, 1]."""
        quantized = self._quantize(images, train=train)
        return Prediction(self.decode_logits(quantized.latents), quantized)

    def encode(self, images: Array) -> Quantized:
        """Images [B,H,W,3] in [-1,1] to latents [B,S,C] and indices [B,S,G]."""
        return self._quantize(images, train=False)

    def encode_unquantized(self, images: Array) -> Float[Array, "B S C"]:
        """What the bottleneck takes."""
        self.check_images(images)
        return split_batch(self.encoder(images))

    def decode(self, latents: Array) -> Float[Array, "B H W 3"]:
        """Quantized latents [B,S,C] to images in [-1, 1], not clipped, by its own parameters."""
        made = self._decode(latents)
        return made if self.pixel_tokenizer is None else self.pixel_tokenizer(made)

    def decode_logits(self, latents: Array) -> Float[Array, "B h w K"]:
        """Quantized latents [B,S,C] to the logits of the pixel tokenizer's codes."""
        return self._decode(latents)

    @nn.nowrap
    def paint(self, weights: Weights, latents: Array) -> Float[Array, "B H W 3"]:
        """Quantized latents [B,S,C] to images in [-1, 1], not clipped, frozen parts included."""
        if not self.frozen_parts():
            return self.apply(weights.variables, latents, method="decode")
        logits = self.apply(weights.variables, latents, method="decode_logits")
        return self.pixel_tokenizer.decode(weights.frozen, logits)

    def _decode(self, latents: Array) -> Array:
        shape = (self.num_tokens, self.quantizer.latent_channels)
        if latents.ndim != 3 or latents.shape[1:] != shape:
            raise ValueError(f"latents {latents.shape} must be [B, {shape[0]}, {shape[1]}]")
        return self.decoder(split_batch(latents))

    def _quantize(self, images: Array, *, train: bool) -> Quantized:
        latents = self.encode_unquantized(images)
        if self.trains_encoder:
            return self.quantizer(latents, train=train)
        return jax.lax.stop_gradient(self.quantizer(latents, train=False))
