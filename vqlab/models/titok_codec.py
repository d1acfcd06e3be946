"""The codec of TiTok: indices of tokens without places, and what stands for tokens left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vqlab.models.codec import Units, Weights
from vqlab.models.codec_parts import powers
from vqlab.models.codecs import IndexCodec
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape


@dataclasses.dataclass(frozen=True)
class TiTokCodec(IndexCodec):
    """Indices [B, S, G] of a `TiTok`.

    A code is kept whole, as its tokens have no trained order. Where prefixes are looked at they are
    the first tokens, with the mean token in the place of each of the others, as in the Semanticist
    paper's figure 2a.
    """

    @property
    def prefixes(self) -> Units:
        """Tokens, 1, 2, 4, ..., S; groups where the quantizer has several."""
        if self.units.total > 1:
            return self.units
        total = self.module.num_tokens
        return Units("tokens", total, powers(total), "the mean token")

    def check_code(self, code):
        """See `Codec`."""
        super().check_code(code)
        if code.shape[1] != self.module.num_tokens:
            raise ValueError(
                f"indices {code.shape} must be [B, {self.module.num_tokens}, {self.units.total}]"
            )

    def decode(self, weights, code, num_kept, key, sampling=None):
        """Of the codewords of the first `num_kept` groups; see `Codec`."""
        del key, sampling
        return self.module.paint(weights, self._lookup(weights, code, num_kept))

    def decode_prefix(self, weights, code, num_kept, key, stand_in: jax.Array | None = None):
        """Of the first `num_kept` tokens and the mean token in the others' places; see `Codec`.

        `stand_in` [C] is `mean_token(weights)` unless it is given.
        """
        if self.units.total > 1:
            return self.decode(weights, code, num_kept, key)
        latents = self.lookup(weights, code)
        kept = check_kept("num_tokens", num_kept, self.module.num_tokens)
        mean = self.mean_token(weights) if stand_in is None else stand_in
        keep = jnp.arange(self.module.num_tokens) < kept
        return self.module.paint(weights, jnp.where(keep[:, None], latents, mean))

    @property
    def stand_in(self) -> Callable[[Weights, jax.Array], jax.Array] | None:
        """[B, C]: the mean of an image's tokens as the decoder reads them; see `Codec`."""
        return self._mean_of_tokens if self.units.total == 1 else None

    def _mean_of_tokens(self, weights: Weights, code: jax.Array) -> jax.Array:
        return jnp.mean(self.lookup(weights, code), axis=1)

    def mean_token(self, weights: Weights) -> jax.Array:
        """[C]: the mean of the tokens of training as the decoder reads them.

        By the running shares of the codewords. Weights from elsewhere have counted none: then each
        codeword counts once.
        """
        codewords = self.lookup(weights, jnp.arange(self.codebook_size)[:, None])
        shares = weights.variables["codebook_stats"]["quantizer"]["usage_ema"][0]
        shares = jnp.where(jnp.sum(shares) > 0, shares, 1.0)
        mean = jnp.matmul(shares, codewords, precision=jax.lax.Precision.HIGHEST)
        return mean / jnp.sum(shares)

    def features(self, weights, code):
        """[B, G, S*D]: the codewords of a group, token beside token."""
        vectors = self.module.apply(
            weights.variables, code, method=lambda m, x: m.quantizer.lookup_groups(x)
        )
        vectors = jnp.swapaxes(vectors, 1, 2)
        return reshape(vectors, (*vectors.shape[:2], -1))

    def card(self):
        """See `Codec`."""
        card = super().card()
        facts = {**card.facts, "bottleneck": self.module.quantizer.title}
        return card._replace(title="TiTok", facts=facts, paper="https://arxiv.org/abs/2406.07550")

    def _lookup(self, weights, code, num_kept):
        def look_up(module, code):
            return module.quantizer.lookup(code, num_groups=num_kept)

        return self.module.apply(weights.variables, code, method=look_up)
