"""A tokenizer in use: the one seam between whole networks and everything that uses them.

Evaluation, export, loading, precomputing and reports ask a codec, never a type. Every whole network
that makes codes has `codec(sampling)`; `models/codecs.py` and `concept_codec.py` hold those of
today.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from vqlab.diffusion.guidance import Guidance
from vqlab.models.codings import Codings


class Weights(NamedTuple):
    """All arrays that a codec takes.

    variables: {"params": ..., **collections} of the network. frozen: {name: variables} of the
    frozen networks that decoding takes, {} for most; see `frozen_parts` of the network.
    """

    variables: Mapping[str, Any]
    frozen: Mapping[str, Any]


class Units(NamedTuple):
    """What a code is made of, in the order in which prefixes of it are kept.

    noun: "groups" or "concepts", for people; "" where the code is kept whole. total: how many
    there are, 1 for a whole code. levels: the numbers kept that are worth looking at, growing, the
    last one `total`; () where there is nothing to count. absent: what stands in the place of a unit
    that is not kept. numbers: floats in one unit, 0 where a unit is an index.
    """

    noun: str
    total: int
    levels: tuple[int, ...]
    absent: str
    numbers: int = 0


class Card(NamedTuple):
    """What people are told of a network in use: in reports, in model cards.

    title: the method. facts: rows of a table. usage: lines of Python after `NOUN = ...`.
    paper: the address of the method's paper, "" for none. tags: words that it is found by.
    noun: what it is, "tokenizer" or "generator". task: what the Hugging Face Hub files it under.
    """

    title: str
    facts: dict[str, str]
    usage: str
    paper: str = ""
    tags: tuple[str, ...] = ()
    noun: str = "tokenizer"
    # Of the Hub's tasks the one for networks that turn an image into numbers for other networks.
    task: str = "image-feature-extraction"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["guidance"],
    meta_fields=["num_steps", "sampler"],
)
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a codec that samples does it. A pytree: another guidance scale compiles nothing.

    num_steps, sampler: of the diffusion process; "" for its own sampler. guidance: classifier-free
    guidance, None for none.
    """

    guidance: Guidance | None = None
    num_steps: int = 25
    sampler: str = ""

    @classmethod
    def of(
        cls,
        num_steps: int = 25,
        guidance_scale: float = 1.0,
        guidance_schedule: str = "constant",
        guidance_interval: Sequence[float] = (0.0, 1.0),
        sampler: str = "",
    ) -> Sampling:
        """From plain settings, those of `config.sampling`.

        Raises:
          ValueError: guidance out of range.
        """
        guidance = Guidance(guidance_scale, guidance_schedule, guidance_interval)
        return cls(None if guidance.is_off else guidance, num_steps, sampler)

    def settings(self) -> dict[str, Any]:
        """The arguments of `of`."""
        guidance = self.guidance or Guidance()
        return {
            "num_steps": self.num_steps,
            "guidance_scale": guidance.scale,
            "guidance_schedule": guidance.schedule,
            "guidance_interval": guidance.interval,
            "sampler": self.sampler,
        }

    def changed(self, **settings: Any) -> Sampling:
        """With some settings replaced; None leaves one as it is."""
        given = {name: value for name, value in settings.items() if value is not None}
        return Sampling.of(**self.settings() | given)


@runtime_checkable
class Codec(Protocol):
    """How everything else sees a tokenizer. All methods that take weights can be jitted.

    Attributes:
      module: the network, unbound.
      name: what its code is: "indices", "latents" or "concepts".
      units: see `Units`.
      prefixes: what can be kept first where prefixes are looked at: the units, or of a code of one
        unit something else that has an order, or neither.
      codebook_size: K of indices [B, ..., G] in 0..K-1; None for a continuous code.
      sampling: how it samples; None where decoding draws nothing.
      setting: how it decodes, in a few words; "" where there is nothing to choose.
      sizes: what users ask for by name, such as {"num_groups": 4, "stride": 16}.
      stand_in: (weights, code [B, ...]) -> [B, ...], what of each image goes into that which stands
        for those of `prefixes` that are not kept: its mean over a set of images does, see
        `decode_prefix`. None where the same stands there whatever the images are.
    """

    module: Any
    name: str
    units: Units
    prefixes: Units
    codebook_size: int | None
    sampling: Sampling | None
    setting: str
    sizes: Mapping[str, int]
    stand_in: Callable[[Weights, jax.Array], jax.Array] | None

    def check_image_size(self, size: int, name: str) -> None:
        """Raises ValueError unless square images of `size` pixels can be encoded and decoded."""

    def check_images(self, images: Any) -> None:
        """Raises ValueError unless images of this shape can be encoded."""

    def check_code(self, code: Any) -> None:
        """Raises ValueError unless `code`, NumPy, is one of its own."""

    def encode(self, weights: Weights, images: jax.Array) -> jax.Array:
        """The code, [B, ...], of images [B, H, W, 3] in [-1, 1] or uint8."""

    def decode(
        self,
        weights: Weights,
        code: jax.Array,
        num_kept: int | jax.Array,
        key: jax.Array,
        sampling: Sampling | None = None,
    ) -> jax.Array:
        """Images [B, H, W, 3], not clipped, from the first `num_kept` (0..total) units.

        The same key is the same noise for any `num_kept`, where there is noise. `sampling` stands
        in the place of the codec's own.
        """

    def decode_prefix(
        self,
        weights: Weights,
        code: jax.Array,
        num_kept: int | jax.Array,
        key: jax.Array,
        stand_in: jax.Array | None = None,
    ) -> jax.Array:
        """As `decode`, from the first `num_kept` of `prefixes`.

        `stand_in` is the mean of the codec's own over the images at hand; without one, what it
        knows of those of training.
        """

    def losses(
        self,
        weights: Weights,
        images: jax.Array,
        code: jax.Array,
        nums_kept: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """[N, B]: each image's loss with the first n units, for the n in `nums_kept` [N].

        The same times and noise for each n.
        """

    def features(self, weights: Weights, code: jax.Array) -> jax.Array:
        """[B, total, F]: what each unit says of the image, for a linear probe."""

    def lookup(self, weights: Weights, code: jax.Array) -> jax.Array:
        """[B, ..., C]: the vectors of a code, for a second stage; a continuous code is its own."""

    def tokens(self, weights: Weights, images: jax.Array) -> jax.Array:
        """[B, ..., C]: the vectors of images before they are quantized; a continuous code."""

    def codings(self, steps: Sequence[float] = ()) -> Codings:
        """The ways of sending its code, with `steps` of quantization where it is continuous."""

    def bits(self, height: int, width: int) -> float | None:
        """Bits of the code of an image of so many pixels at fixed length; None: continuous."""

    def card(self) -> Card:
        """What people are told."""
