"""What whole networks of second stages have in common, and their generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from vqlab.models.codec import Card, Codec, Weights
from vqlab.models.generator import NOUN, TASK, TOKENIZER
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.ops.pixels import as_floats


class SecondStage:
    """What whole networks of second stages have in common: a frozen tokenizer, classes, images.

    A subclass is a dataclass with at least the attributes below, and a Linen module `transformer`
    whose variables are its own.

    Attributes:
      tokenizer: a whole network that makes codes.
      image_size: side of the images in pixels.
      num_classes: 0 for none.
    """

    tokenizer: Any
    image_size: int
    num_classes: int
    transformer: nn.Module

    sampling_kind: ClassVar[type] = GeneratorSampling
    beginning: ClassVar[str] = ""  # what more it needs to begin with, in words

    @property
    def example_side(self) -> int:
        """Side in pixels of an image that it takes."""
        return self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) positions of a code; (1, S) of a sequence."""
        count = self.tokenizer.num_positions(self.image_size, self.image_size)
        if len(self.tokenizer.position_axes) == 1:
            return 1, count
        side = round(count**0.5)
        return side, side

    def frozen_parts(self) -> Mapping[str, Any]:
        """The tokenizer, and the frozen parts that it takes itself."""
        return {TOKENIZER: self.tokenizer, **self.tokenizer.frozen_parts()}

    def tokenizer_weights(self, frozen: Mapping[str, Any]) -> Weights:
        """The tokenizer's, of all frozen ones; those that are not there are not needed."""
        names = (name for name in self.tokenizer.frozen_parts() if name in frozen)
        return Weights(frozen[TOKENIZER], {name: frozen[name] for name in names})

    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless images of `size` pixels are those that it makes."""
        self.tokenizer.check_image_size(size, name)
        if size != self.image_size:
            raise ValueError(f"{name}={size} is not the generator's image size {self.image_size}")

    def check_images(self, images: Any) -> None:
        """Raises ValueError unless the tokenizer takes images of this shape."""
        self.tokenizer.check_images(images)

    def post_update(self, params: Mapping[str, Any], update: Mapping[str, Any]) -> Mapping:
        """Nothing but gradient steps changes its parameters."""
        del update
        return params


class TokenizerGenerator:
    """What generators of today have in common: the frozen tokenizer's part."""

    module: SecondStage
    sampling: GeneratorSampling

    @property
    def codec(self) -> Codec:
        """See `Generator`."""
        return self.module.tokenizer.codec(self.sampling.decoding)

    @property
    def num_classes(self) -> int:
        """See `Generator`."""
        return self.module.num_classes

    @property
    def image_size(self) -> int:
        """See `Generator`."""
        return self.module.image_size

    def check_image_size(self, size, name):
        """See `Generator`."""
        self.module.check_image_size(size, name)

    def check_sampling(self, sampling):
        """See `Generator`."""
        sampling.tokens.check_classes(self.num_classes)

    def encode(self, weights, images):
        """See `Generator`."""
        frozen = self.module.tokenizer_weights(weights.frozen)
        return self.codec.encode(frozen, as_floats(images))

    def _decode(self, weights, code, num_kept, keys, sampling):
        """Images of codes, with noise of each image's own where the decoder draws any."""
        codec, frozen = self.codec, self.module.tokenizer_weights(weights.frozen)
        if codec.sampling is None:
            return codec.decode(frozen, code, num_kept, jax.random.key(0))

        def decode_one(code, key):
            return codec.decode(frozen, code[None], num_kept, key, sampling.decoding)[0]

        return jax.vmap(decode_one)(code, keys)


def generator_card(generator: TokenizerGenerator, network: nn.Module) -> Card:
    """What people are told of a second stage over a tokenizer."""
    inner = generator.codec.card()
    classes = generator.num_classes
    facts = {
        "image size": f"{generator.image_size} pixels",
        "classes": f"{classes}" if classes else "none",
        "width x depth x heads": f"{network.width} x {network.depth} x {network.num_heads}",
        "positions of a code": f"{generator.num_positions}",
        **{f"tokenizer: {name}": text for name, text in inner.facts.items()},
    }
    labels, guidance = (min(207, classes - 1), ", guidance_scale=2.0") if classes else (0, "")
    usage = (
        f"images = generator.generate([{labels}] * 4, seed=0{guidance})  "
        f"# float32 [4, {generator.image_size}, {generator.image_size}, 3] in [-1, 1]"
    )
    title = f"Autoregressive generator over {inner.title}"
    return Card(title, facts, usage, inner.paper, inner.tags, NOUN, TASK)
