"""A second stage in use: the one seam between networks that draw codes and what uses them.

Evaluation, export, loading and sampling ask a generator, never a type. A whole network of a second
stage has `codec(sampling)` as tokenizers do, and gives its generator there; `index_generator.py`
and `concept_generator.py` hold those of today. Its tokenizer is a frozen part, "tokenizer".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.models.codec import Card, Codec, Sampling, Weights
from vqlab.models.generator_sampling import GeneratorSampling

NOUN = "generator"  # of a `Card`
TOKENIZER = "tokenizer"  # the frozen part that makes and decodes codes
# What the Hugging Face Hub calls networks that draw images, of a class or of none.
TASK = "unconditional-image-generation"
# Image n of class c has the number c * this + n where many are drawn, see `vqlab.generate`.
NUMBERS_PER_CLASS = 1_000_000


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
