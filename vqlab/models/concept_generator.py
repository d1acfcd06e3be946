"""Semanticist's second stage as a whole network: a frozen tokenizer, and a concept transformer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vqlab.models.concept_sampling import sample_concepts
from vqlab.models.concept_transformer import ConceptTransformer
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.models.second_stage import SecondStage, TokenizerGenerator, generator_card
from vqlab.ops.counts import check_count

SCORE_DRAWS = 4  # times and noises for each concept


@dataclasses.dataclass(frozen=True)
class ConceptGenerator(SecondStage):
    """Class -> the first concepts [B, S, D] of a tokenizer that has some -> image.

    Attributes:
      tokenizer, image_size, num_classes: see `SecondStage`.
      process, num_kept, width, depth, num_heads, num_class_tokens, head_width, head_depth,
        head_conditioning, dropout, label_dropout, dtype: see `ConceptTransformer`.
    """

    tokenizer: Any
    image_size: int
    num_classes: int
    process: Any
    width: int
    depth: int
    num_heads: int
    num_kept: int = 32
    num_class_tokens: int = 1
    head_width: int = 1536
    head_depth: int = 12
    head_conditioning: str = "concat"
    dropout: float = 0.1
    label_dropout: float = 0.1
    dtype: str = "float32"

    objective: ClassVar[str] = "concept_prediction"

    def __post_init__(self):
        codec = self.tokenizer.codec()
        if not codec.units.numbers:
            raise ValueError(
                f"a concept_generator needs a tokenizer with concepts; {codec.card().title} has "
                f"{codec.name}"
            )
        check_count("num_kept", self.num_kept, 1, codec.units.total)

    @functools.cached_property
    def transformer(self) -> ConceptTransformer:
        """The network that is trained."""
        return ConceptTransformer(
            num_kept=self.num_kept,
            concept_dim=self.tokenizer.codec().units.numbers,
            num_classes=self.num_classes,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            process=self.process,
            num_class_tokens=self.num_class_tokens,
            head_width=self.head_width,
            head_depth=self.head_depth,
            head_conditioning=self.head_conditioning,
            dropout=self.dropout,
            label_dropout=self.label_dropout,
            dtype=self.dtype,
        )

    def codec(self, sampling: GeneratorSampling | None = None) -> ConceptSampler:
        """The network in use."""
        return ConceptSampler(self, sampling or GeneratorSampling())

    def init(self, key: jax.Array, images: jax.Array) -> Mapping[str, Any]:
        """Variables of the transformer; no image is looked at."""
        del images
        concepts = jnp.zeros((1, self.num_kept, self.transformer.concept_dim))
        labels = jnp.zeros(1, jnp.int32)
        return self.transformer.init(key, concepts, labels, concepts[0], jnp.zeros(self.num_kept))

    def losses(
        self,
        variables: Mapping[str, Any],
        concepts: jax.Array,
        labels: jax.Array,
        noise: jax.Array,
        t: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """The process's terms, float32 [n, B, S], "loss" among them, of n draws for each concept.

        Args:
          variables: of the transformer.
          concepts: [B, total, D], of which the first S = num_kept are read.
          labels: [B].
          noise: [n, B, S, D] standard normal.
          t: [n B S] times of the process.
          train: draws from the streams "dropout" and "label_dropout" of `rngs`.
        """
        kept = concepts[:, : self.num_kept].astype(jnp.float32)
        shape, dim = noise.shape[:-1], noise.shape[-1]
        target = jnp.broadcast_to(kept, noise.shape).reshape(-1, dim)
        flat = noise.reshape(-1, dim)
        x_t = self.process.add_noise(target, flat, t)
        output = self.transformer.apply(variables, kept, labels, x_t, t, train=train, rngs=rngs)
        terms = self.process.losses(output, target, flat, t)
        return {name: values.reshape(shape) for name, values in terms.items()}

    def draw(self, key: jax.Array, draws: int, batch: int) -> tuple[jax.Array, jax.Array]:
        """(noise, t), `draws` for each concept of a batch, as `losses` takes them."""
        noise_key, time_key = jax.random.split(key)
        shape = draws, batch, self.num_kept
        noise = jax.random.normal(noise_key, (*shape, self.transformer.concept_dim))
        return noise, self.process.draw_times(time_key, draws * batch * self.num_kept)


@dataclasses.dataclass(frozen=True)
class ConceptSampler(TokenizerGenerator):
    """The `Generator` of a `ConceptGenerator`."""

    module: ConceptGenerator
    sampling: GeneratorSampling

    def __post_init__(self):
        self.check_sampling(self.sampling)

    @property
    def num_positions(self) -> int:
        """S."""
        return self.module.num_kept

    @property
    def scores(self) -> dict[str, str]:
        """See `Generator`."""
        return {
            "loss": "loss of the diffusion head at random times, given the class and the concepts "
            f"before; mean over {SCORE_DRAWS} draws of each of the first {self.num_positions} "
            "concepts and over images"
        }

    def check_sampling(self, sampling):
        """What the sampler cannot take is a ValueError now, not after compilation."""
        super().check_sampling(sampling)
        output = jnp.zeros((1, self.module.process.output_channels(1)))
        sample = functools.partial(
            self.module.process.sample,
            lambda x_t, t: output,
            key=jax.random.key(0),
            num_steps=sampling.num_steps,
            sampler=sampling.sampler,
        )
        jax.eval_shape(sample, jnp.zeros((1, 1)))
        if sampling.tokens.top_k or sampling.tokens.top_p < 1:
            raise ValueError("top_k and top_p cut indices; this generator draws concepts")

    def sample(self, weights, labels, keys, sampling, given=None, num_given=0):
        """[B, total, D] float32, zeros beyond those that are modelled; see `Generator`."""
        kept, total = self.num_positions, self.codec.units.total
        concepts, _ = sample_concepts(
            self.module.transformer,
            weights.variables,
            labels,
            keys,
            sampling.tokens,
            num_steps=sampling.num_steps,
            sampler=sampling.sampler,
            given=None if given is None else given[:, :kept],
            num_given=num_given,
        )
        return jnp.pad(concepts, ((0, 0), (0, total - kept), (0, 0)))

    def decode(self, weights, code, keys, sampling):
        """From the first S concepts; see `Generator`."""
        return self._decode(weights, code, self.num_positions, keys, sampling)

    def score(self, weights, code, labels, key):
        """See `Generator`."""
        noise, t = self.module.draw(key, SCORE_DRAWS, len(code))
        terms = self.module.losses(weights.variables, code, labels, noise, t)
        return {"loss": jnp.mean(terms["loss"], (0, 2))}

    def card(self):
        """See `Codec`."""
        return generator_card(self, self.module.transformer)
