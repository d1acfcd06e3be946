"""MGVQ's second stage as a whole network: a frozen tokenizer with indices, and a transformer."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.models.index_sampling import sample_indices
from vqlab.models.index_transformer import IndexTransformer
from vqlab.models.second_stage import SecondStage, TokenizerGenerator, generator_card
from vqlab.ops.losses import index_nll
from vqlab.registry import check_choice

# Codewords as the decoder reads them, or as they are stored: MGVQ's released second stage takes
# those that are not normalised.
CODEWORDS = ("read", "stored")


@dataclasses.dataclass(frozen=True)
class IndexGenerator(SecondStage):
    """Class -> indices [B, ..., G] of any tokenizer that has some -> image.

    Attributes:
      tokenizer, image_size, num_classes: see `SecondStage`.
      width, depth, num_heads, head_depth, dropout, label_dropout, dtype: see `IndexTransformer`.
      codewords: the transformer's input, one of `CODEWORDS`.
    """

    tokenizer: Any
    image_size: int
    num_classes: int
    width: int
    depth: int
    num_heads: int
    head_depth: int = 2
    dropout: float = 0.1
    label_dropout: float = 0.1
    codewords: str = "read"
    dtype: str = "float32"

    objective: ClassVar[str] = "index_prediction"

    def __post_init__(self):
        check_choice("codewords", self.codewords, CODEWORDS)
        codec = self.tokenizer.codec()
        if codec.codebook_size is None:
            raise ValueError(
                f"an index_generator needs a tokenizer with indices; {codec.card().title} has "
                f"{codec.name}"
            )

    @functools.cached_property
    def transformer(self) -> IndexTransformer:
        """The network that is trained."""
        quantizer = self.tokenizer.quantizer
        return IndexTransformer(
            grid=self.grid,
            num_groups=quantizer.num_groups,
            codebook_size=quantizer.codebook_size,
            latent_channels=quantizer.latent_channels,
            num_classes=self.num_classes,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            head_depth=self.head_depth,
            dropout=self.dropout,
            label_dropout=self.label_dropout,
            dtype=self.dtype,
        )

    def codec(self, sampling: GeneratorSampling | None = None) -> IndexSampler:
        """The network in use."""
        return IndexSampler(self, sampling or GeneratorSampling())

    def init(self, key: jax.Array, images: jax.Array) -> Mapping[str, Any]:
        """Variables of the transformer; no image is looked at."""
        del images
        network = self.transformer
        shape = 1, network.num_positions
        return network.init(
            key,
            jnp.zeros((*shape, network.latent_channels)),
            jnp.zeros((*shape, network.num_groups), jnp.int32),
            jnp.zeros(1, jnp.int32),
        )

    def inputs(self, frozen: Mapping[str, Any], indices: jax.Array) -> jax.Array:
        """Codewords [..., C] of indices [..., G], as the transformer takes them."""
        is_stored = self.codewords == "stored"

        def look_up(module, indices):
            quantizer = module.quantizer
            return quantizer.stored(indices) if is_stored else quantizer.lookup(indices)

        weights = self.tokenizer_weights(frozen)
        return self.tokenizer.apply(weights.variables, indices, method=look_up)

    def nll(
        self,
        variables: Mapping[str, Any],
        frozen: Mapping[str, Any],
        indices: jax.Array,
        labels: jax.Array,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> jax.Array:
        """-log p in nats, float32 [B, L, G], of indices [B, ..., G] given the class.

        `train` draws from the streams "dropout" and "label_dropout".
        """
        indices = indices.reshape(len(indices), self.transformer.num_positions, -1)
        codewords = self.inputs(frozen, indices)
        logits = self.transformer.apply(
            variables, codewords, indices, labels, train=train, rngs=rngs
        )
        return index_nll(logits, indices)


@dataclasses.dataclass(frozen=True)
class IndexSampler(TokenizerGenerator):
    """The `Generator` of an `IndexGenerator`."""

    module: IndexGenerator
    sampling: GeneratorSampling

    def __post_init__(self):
        self.check_sampling(self.sampling)

    @property
    def num_positions(self) -> int:
        """h w."""
        return self.module.transformer.num_positions

    @property
    def scores(self) -> dict[str, str]:
        """See `Generator`."""
        given = "given the class and the indices before it"
        texts = {
            "bits_per_index": f"-log2 p of an index {given}; mean over all of all images",
            "bits_per_dimension": f"sum of -log2 p of an image's indices {given}, over its 3 H W "
            "numbers; mean over images",
        }
        groups = self.module.transformer.num_groups
        if groups > 1:
            of_group = "as bits_per_index, of the group's indices alone"
            texts |= {f"bits_per_index_g{group}": of_group for group in range(groups)}
        return texts

    def check_sampling(self, sampling):
        """See `Generator`."""
        super().check_sampling(sampling)
        sampling.tokens.check_codebook(self.module.transformer.codebook_size)

    def sample(self, weights, labels, keys, sampling, given=None, num_given=0):
        """[B, ..., G] int32; see `Generator`."""
        module = self.module
        positions = module.grid if len(module.tokenizer.position_axes) == 2 else module.grid[1:]
        if given is not None:
            given = given.reshape(given.shape[0], self.num_positions, -1)
        indices = sample_indices(
            module.transformer,
            weights.variables,
            lambda indices: module.inputs(weights.frozen, indices),
            labels,
            keys,
            sampling.tokens,
            given,
            num_given,
        )
        return indices.reshape(labels.shape[0], *positions, -1)

    def decode(self, weights, code, keys, sampling):
        """See `Generator`."""
        return self._decode(weights, code, self.codec.units.total, keys, sampling)

    def score(self, weights, code, labels, key):
        """See `Generator`; nothing is drawn."""
        del key
        bits = self.module.nll(weights.variables, weights.frozen, code, labels) / math.log(2)
        values = {
            "bits_per_index": jnp.mean(bits, (1, 2)),
            "bits_per_dimension": jnp.sum(bits, (1, 2)) / (3 * self.image_size**2),
        }
        of_groups = jnp.mean(bits, 1)
        return values | {
            name: of_groups[:, int(name.rpartition("_g")[2])]
            for name in self.scores
            if name not in values
        }

    def card(self):
        """See `Codec`."""
        return generator_card(self, self.module.transformer)
