"""A second stage in use: the one seam between networks that draw codes and what uses them.

Evaluation, export, loading and sampling ask a generator, never a type. A whole network of a second
stage has `codec(sampling)` as tokenizers do, and gives its generator there; `index_generator.py`
and `concept_generator.py` hold those of today. Its tokenizer is a frozen part, "tokenizer".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqlab.models.codec import Card, Codec, Sampling, Weights
from vqlab.models.token_sampling import ALWAYS, TokenSampling
from vqlab.ops.pixels import as_floats

NOUN = "generator"  # of a `Card`
TOKENIZER = "tokenizer"  # the frozen part that makes and decodes codes
# What the Hugging Face Hub calls networks that draw images, of a class or of none.
TASK = "unconditional-image-generation"
# Image n of class c has the number c * this + n where many are drawn, see `vqlab.generate`.
NUMBERS_PER_CLASS = 1_000_000


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "decoding"],
    meta_fields=["num_steps", "sampler"],
)
@dataclasses.dataclass(frozen=True)
class GeneratorSampling:
    """How a generator samples. A pytree: other numbers compile nothing.

    tokens: guidance, temperature and cuts of the code. num_steps, sampler: of the process that
    draws a continuous token; "" for its own sampler. decoding: of the tokenizer's decoder, None
    where it draws nothing.
    """

    tokens: TokenSampling = TokenSampling()
    num_steps: int = 250
    sampler: str = ""
    decoding: Sampling | None = None

    @classmethod
    def of(
        cls,
        guidance_scale: Any = 1.0,
        guidance_schedule: str = "constant",
        guidance_interval: Any = ALWAYS,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        num_steps: int = 250,
        sampler: str = "",
        decoding: Mapping[str, Any] | None = None,
    ) -> GeneratorSampling:
        """From plain settings, those of `config.sampling`; see `TokenSampling.of`.

        Raises:
          ValueError: one is out of range.
        """
        tokens = TokenSampling.of(
            guidance_scale, guidance_schedule, guidance_interval, temperature, top_k, top_p
        )
        return cls(tokens, num_steps, sampler, Sampling.of(**decoding) if decoding else None)

    def settings(self) -> dict[str, Any]:
        """The arguments of `of`."""
        return {
            "guidance_scale": self.tokens.guidance_scale,
            "guidance_schedule": "linear" if self.tokens.is_linear else "constant",
            "guidance_interval": self.tokens.guidance_interval,
            "temperature": self.tokens.temperature,
            "top_k": self.tokens.top_k,
            "top_p": self.tokens.top_p,
            "num_steps": self.num_steps,
            "sampler": self.sampler,
            "decoding": self.decoding.settings() if self.decoding else None,
        }

    def changed(self, **settings: Any) -> GeneratorSampling:
        """With some settings replaced; None leaves one as it is."""
        given = {name: value for name, value in settings.items() if value is not None}
        return GeneratorSampling.of(**self.settings() | given)


@runtime_checkable
class Generator(Protocol):
    """How everything else sees a second stage. All methods that take weights can be jitted.

    Weights are the network's own variables, and in `frozen` the tokenizer and what that decodes
    with.

    Attributes:
      module: the whole network.
      codec: of its tokenizer.
      num_classes: labels are 0..num_classes-1; 0 for none.
      num_positions: tokens of a code that it draws one after the other.
      image_size: side of its images in pixels.
      sampling: its defaults.
      scores: name -> how it is measured, of what `score` gives. The first one is the main one.
    """

    module: Any
    codec: Codec
    num_classes: int
    num_positions: int
    image_size: int
    sampling: GeneratorSampling
    scores: Mapping[str, str]

    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless images have `size` pixels."""

    def check_sampling(self, sampling: GeneratorSampling) -> None:
        """Raises ValueError where it cannot sample so."""

    def encode(self, weights: Weights, images: jax.Array) -> jax.Array:
        """The code of images [B, H, W, 3] by the frozen tokenizer."""

    def sample(
        self,
        weights: Weights,
        labels: jax.Array,
        keys: jax.Array,
        sampling: GeneratorSampling,
        given: jax.Array | None = None,
        num_given: int | jax.Array = 0,
    ) -> jax.Array:
        """Codes of B images of the classes `labels` [B], each drawn with its own key [B].

        Of `given` codes the first `num_given` positions are kept.
        """

    def decode(
        self, weights: Weights, code: jax.Array, keys: jax.Array, sampling: GeneratorSampling
    ) -> jax.Array:
        """Images [B, H, W, 3] of sampled codes, not clipped; the key [B] is of each one's noise."""

    def score(
        self, weights: Weights, code: jax.Array, labels: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        """{name: [B]}, how badly it predicts codes of given classes; `scores` has the names."""

    def card(self) -> Card:
        """What people are told."""


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

    @property
    def sizes(self) -> dict[str, int]:
        """What users ask for by name."""
        names = ("num_classes", "num_positions", "image_size")
        return {name: getattr(self, name) for name in names}

    def check_image_size(self, size, name):
        """See `Generator`."""
        self.module.check_image_size(size, name)

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
    labels = min(207, classes - 1) if classes else 0
    usage = (
        f"images = generator.generate([{labels}] * 4, seed=0, guidance_scale=2.0)  "
        f"# uint8 [4, {generator.image_size}, {generator.image_size}, 3]"
    )
    title = f"Autoregressive generator over {inner.title}"
    return Card(title, facts, usage, inner.paper, inner.tags, NOUN, TASK)


def image_keys(seed: int | jax.Array, numbers: jax.Array) -> jax.Array:
    """[B] keys, each of its image's number alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def draw_images(
    generator: Generator,
    weights: Weights,
    labels: jax.Array,
    seed: int | jax.Array,
    numbers: jax.Array,
    sampling: GeneratorSampling,
    given: jax.Array | None = None,
    num_given: int | jax.Array = 0,
) -> tuple[jax.Array, jax.Array]:
    """(codes, images [B, H, W, 3], not clipped) of classes `labels` [B]; a pure function.

    An image is a function of its label, `seed` and its number, of `numbers` [B], whatever is drawn
    beside it. `given` and `num_given` are those of `Generator.sample`.
    """
    keys = jax.vmap(jax.random.split, out_axes=1)(image_keys(seed, numbers))
    code = generator.sample(weights, labels, keys[0], sampling, given, num_given)
    return code, generator.decode(weights, code, keys[1], sampling)


def check_labels(labels: Any, num_classes: int) -> np.ndarray:
    """Labels as int32 [B].

    Raises:
      ValueError: no whole numbers, or a class that there is not.
    """
    labels = np.atleast_1d(np.asarray(labels))
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels {labels.shape} of {labels.dtype} must be whole numbers [B]")
    wrong = labels[(labels < 0) | (labels >= max(num_classes, 1))]
    if len(wrong):
        known = f"0..{num_classes - 1}" if num_classes else "0, for it has no classes"
        raise ValueError(f"class {wrong[0]} does not exist: this generator's are {known}")
    return labels.astype(np.int32)


def in_use(module: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """A whole network in use, a `Codec` or a `Generator`, that samples by plain `settings`.

    Raises:
      ValueError: a setting out of range.
    """
    kind = getattr(module, "sampling_kind", Sampling)
    return module.codec(kind.of(**(settings or {})))
