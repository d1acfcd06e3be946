"""A tokenizer seen as reconstructions from growing prefixes of its code.

The one seam between evaluators and methods: MGVQ keeps the first k groups, Semanticist the first k
concepts, and an autoencoder with one continuous code keeps all or nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqlab.diffusion.guidance import Guidance
from vqlab.evaluation.image_metrics import mse_per_image
from vqlab.models.concept_decoding import concept_losses, decode_concepts
from vqlab.models.semanticist import Semanticist
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.quantizers import GroupedQuantizer

# ({"params": ..., **collections} of the model, {name: parameters} of the frozen networks).
Weights = tuple[Mapping[str, Any], Mapping[str, Any]]


class Ladder(Protocol):
    """How evaluators see a tokenizer. All methods can be jitted, with `num_kept` traced.

    Attributes:
      noun: what is counted, "groups" or "concepts"; "" where there is nothing to count.
      total: how many there are.
      levels: the numbers kept that are worth looking at, growing, the last one `total`; () where
        there is nothing to count.
      numbers_per_unit: float numbers in one unit, where a unit is that; otherwise 0.
      setting: how it decodes, in a few words; "" where there is nothing to choose.
    """

    noun: str
    total: int
    levels: tuple[int, ...]
    numbers_per_unit: int
    setting: str

    def encode(self, weights: Weights, images: jax.Array) -> jax.Array:
        """The code, [B, ...], of images [B, H, W, 3] in [-1, 1]."""

    def decode(
        self, weights: Weights, code: jax.Array, num_kept: int | jax.Array, key: jax.Array
    ) -> jax.Array:
        """Images [B, H, W, 3], not clipped, from the first `num_kept` (0..total) units.

        The same key is the same noise for any `num_kept`, where there is noise.
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


def ladder_of(module: nn.Module, **settings: Any) -> Ladder:
    """The ladder of an unbound model; `settings` are those of `ConceptLadder`.

    Raises:
      ValueError: no ladder is known for such a model.
    """
    if isinstance(module, Semanticist):
        return ConceptLadder(module, **settings)
    if not isinstance(module, Tokenizer):
        raise ValueError(
            f"cannot evaluate a {type(module).__name__}; choose a Tokenizer or a Semanticist"
        )
    is_grouped = isinstance(module.quantizer, GroupedQuantizer)
    return (GroupLadder if is_grouped else AutoencoderLadder)(module, **settings)


@dataclasses.dataclass(frozen=True)
class GroupLadder:
    """MGVQ: the first k groups of codewords, zeros for the others. The code is the indices."""

    tokenizer: Tokenizer

    noun = "groups"
    numbers_per_unit = 0
    setting = ""

    @property
    def total(self) -> int:
        """G."""
        return self.tokenizer.quantizer.num_groups

    @property
    def levels(self) -> tuple[int, ...]:
        """1 to G."""
        return tuple(range(1, self.total + 1))

    def encode(self, weights, images):
        """[B, h, w, G]; see `Ladder`."""
        return self.tokenizer.apply(weights[0], images, method="encode").indices

    def decode(self, weights, code, num_kept, key):
        """As `Tokenizer.decode_indices`, with a traced number of groups."""
        del key

        def decode(tokenizer, indices):
            latents = tokenizer.quantizer.lookup(indices)
            channels_per_group = latents.shape[-1] // self.total
            used = jnp.arange(latents.shape[-1]) // channels_per_group < num_kept
            return tokenizer.decode(jnp.where(used, latents, 0))

        return self.tokenizer.apply(weights[0], code, method=decode)

    def losses(self, weights, images, code, nums_kept, key):
        """Mean squared error of the pixels in [0, 1]; see `Ladder`."""
        return _pixel_losses(self, weights, images, code, nums_kept, key)

    def features(self, weights, code):
        """[B, G, D]: the codewords of a group, averaged over all positions."""

        def lookup(tokenizer, indices):
            return tokenizer.quantizer.lookup(indices)

        latents = self.tokenizer.apply(weights[0], code, method=lookup)
        return jnp.mean(latents, axis=(1, 2)).reshape(len(code), self.total, -1)


@dataclasses.dataclass(frozen=True)
class AutoencoderLadder:
    """A continuous code [B, h, w, C], the posterior's mean, that is kept whole or not at all."""

    tokenizer: Tokenizer

    noun = ""
    total = 1
    levels = ()
    numbers_per_unit = 0
    setting = ""

    def encode(self, weights, images):
        """[B, h, w, C]; see `Ladder`."""
        return self.tokenizer.apply(weights[0], images, method="encode").latents

    def decode(self, weights, code, num_kept, key):
        """Of the code, or of zeros; see `Ladder`."""
        del key
        latents = jnp.where(num_kept > 0, code, 0)
        return self.tokenizer.apply(weights[0], latents, method="decode")

    def losses(self, weights, images, code, nums_kept, key):
        """Mean squared error of the pixels in [0, 1]; see `Ladder`."""
        return _pixel_losses(self, weights, images, code, nums_kept, key)

    def features(self, weights, code):
        """[B, 1, C]: the code averaged over all positions."""
        del weights
        return jnp.mean(code, axis=(1, 2))[:, None]


@dataclasses.dataclass(frozen=True)
class ConceptLadder:
    """Semanticist: the first k concepts, learned nulls for the others. The code is the concepts.

    Attributes:
      model: unbound.
      num_steps, sampler: of the process; "" for its own sampler.
      guidance_scale, guidance_schedule, guidance_interval: of classifier-free guidance.

    The latent space's parameters are `frozen["latent_space"]`.
    """

    model: Semanticist
    num_steps: int = 25
    guidance_scale: float = 1.0
    guidance_schedule: str = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    sampler: str = ""

    noun = "concepts"

    def __post_init__(self):
        self._guidance()
        output = jnp.zeros((1, self.model.process.output_channels(1)))
        sample = functools.partial(
            self.model.process.sample,
            lambda x_t, t: output,
            key=jax.random.key(0),
            num_steps=self.num_steps,
            sampler=self.sampler,
        )
        # What guidance or sampler cannot take is an error now, not at the first evaluation.
        jax.eval_shape(sample, jnp.zeros((1, 1)))

    @property
    def total(self) -> int:
        """S."""
        return self.model.num_concepts

    @property
    def levels(self) -> tuple[int, ...]:
        """1, 2, 4, ..., S."""
        powers = (2**i for i in range(self.total.bit_length()))
        return (*(k for k in powers if k < self.total), self.total)

    @property
    def numbers_per_unit(self) -> int:
        """D."""
        return self.model.concept_dim

    @property
    def setting(self) -> str:
        """Sampler, steps and guidance."""
        text = f"{self.num_steps} steps of {self.sampler or self.model.process.sampler}"
        guidance = self._guidance()
        if guidance.is_off:
            return f"{text}, no guidance"
        text += f", guidance {guidance.scale:g} ({guidance.schedule}"
        if guidance.schedule == "interval":
            text += " {:g} to {:g}".format(*guidance.interval)
        return f"{text})"

    def _guidance(self) -> Guidance:
        return Guidance(self.guidance_scale, self.guidance_schedule, self.guidance_interval)

    def encode(self, weights, images):
        """[B, S, D]; see `Ladder`."""
        return self.model.apply(weights[0], images, method="encode")

    def decode(self, weights, code, num_kept, key):
        """One sample for each image; see `Ladder`."""
        variables, frozen = weights
        return decode_concepts(
            self.model,
            variables,
            frozen.get("latent_space", {}),
            code,
            key=key,
            num_kept=num_kept,
            guidance=self._guidance(),
            num_steps=self.num_steps,
            sampler=self.sampler,
        )

    def losses(self, weights, images, code, nums_kept, key):
        """Squared error of the decoder's prediction at a random time; see `Ladder`."""
        variables, frozen = weights
        posterior_key, loss_key = jax.random.split(key)
        latents = self.model.latent_space.encode(
            frozen.get("latent_space", {}), images, posterior_key
        )
        return jax.lax.map(
            lambda n: concept_losses(
                self.model, variables, latents, code, key=loss_key, num_kept=n
            ),
            nums_kept,
        )

    def features(self, weights, code):
        """[B, S, D]: the concepts themselves."""
        del weights
        return code


def _pixel_losses(ladder: Ladder, weights, images, code, nums_kept, key) -> jax.Array:
    return jax.lax.map(
        lambda n: mse_per_image(images, ladder.decode(weights, code, n, key)), nums_kept
    )
