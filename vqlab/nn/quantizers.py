"""MGVQ's quantizer: channel groups, each with a codebook of its own (mgvq.py VectorQuantizer)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.quantized import CountingBottleneck, Kept, Quantized, both, flat
from vqlab.ops import codebook as ops
from vqlab.ops import masks
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape


class GroupedQuantizer(CountingBottleneck):
    """Quantizes each of G channel groups with its own codebook, nearest by cosine.

    Tokens and codewords are l2-normalised in float32, so the decoder reads one unit vector per
    group, or zeros where a group is masked or not among the first `num_groups`. Gradients pass
    straight through to the normalised token. The forward pass never changes the codebook.

    Parameter `codebook` [G, K, D]; collection and stats as in `CountingBottleneck`. Random streams,
    used in training only: "mask" and "reseed". With `reseed` the update holds what moves dead
    codewords after the optimizer step: `reseed_codewords` [G, K, D], a token for each codeword, and
    `reseed_keep` [G, K].

    num_groups: G. codebook_size: K, codewords per group. latent_channels: C, a multiple of G.
    beta: weight of the commitment loss. mask_range: () or two probabilities, spread over the
    groups; mask_probs: instead of it, G nested probabilities (ops.masks).
    mask_per_sample: draw masks for each sample, not once per batch.
    usage_decay: rate of `usage_ema`. reseed: whether dead codewords move.
    """

    num_groups: int
    codebook_size: int
    latent_channels: int
    beta: float = 0.25
    mask_range: tuple[float, ...] = ()
    mask_probs: tuple[float, ...] = ()
    mask_per_sample: bool = False
    usage_decay: float = 0.01
    reseed: bool = True

    title: ClassVar[str] = "MGVQ"
    paper: ClassVar[str] = "https://arxiv.org/abs/2507.07997"

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    def setup(self):
        if self.num_groups < 1 or self.latent_channels % self.num_groups:
            raise ValueError(
                f"{self.latent_channels} latent channels do not split into {self.num_groups} groups"
            )
        if self.codebook_size < 1:
            raise ValueError(f"codebook_size={self.codebook_size} must be at least 1")
        if self.mask_range and self.mask_probs:
            raise ValueError("give mask_range or mask_probs, not both")
        self.nested_probs = self.mask_probs or masks.spread_mask_probs(
            self.mask_range, self.num_groups
        )
        masks.check_mask_probs(self.nested_probs, self.num_groups)
        shape = (self.num_groups, self.codebook_size, self.latent_channels // self.num_groups)
        self.codebook = self.param("codebook", init_codebook, shape)
        self.make_meters()

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Quantize `latents`; groups beyond the first `num_groups` (None: all) are zeros."""
        self.check_latents(latents)
        batch, *positions = latents.shape[:-1]
        tokens = reshape(latents, (-1, self.num_groups, self.codebook.shape[-1]))
        tokens = ops.l2_normalize(tokens)
        indices = ops.nearest_codeword(tokens, self.codebook)
        codewords = ops.l2_normalize(ops.select_codewords(self.codebook, indices))
        groups = self.keep_groups(
            latents.shape[0], train, num_groups, self.nested_probs, self.mask_per_sample
        )
        count = tokens.shape[0]
        groups = jnp.repeat(groups, math.prod(positions), 0, total_repeat_length=count)
        quantized = tokens + jax.lax.stop_gradient(codewords - tokens)
        quantized = jnp.where(groups[..., None], quantized, 0.0)
        losses = {name: jnp.zeros(self.num_groups) for name in ("vq", "commit")}
        stats, update = {}, {}
        if train:
            sent = flat(keep)
            losses = self._losses(tokens, codewords, both(groups, sent))
            stats, usage_ema = self.count(indices, groups, self.usage_decay, sent)
            if self.reseed:
                update = self._reseeding(tokens, both(groups, sent), usage_ema, sent)
        return Quantized(
            reshape(quantized, latents.shape).astype(latents.dtype),
            reshape(indices, (batch, *positions, self.num_groups)),
            losses,
            stats,
            update,
        )

    def lookup(
        self, indices: Int[Array, "*dims G"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """Unit codewords side by side, float32; zeros beyond `num_groups` groups (None: all)."""
        self.check_indices(indices)
        used = check_kept("num_groups", num_groups, self.num_groups)
        codewords = ops.l2_normalize(ops.select_codewords(self.codebook, indices))
        codewords = jnp.where(jnp.arange(self.num_groups)[:, None] < used, codewords, 0.0)
        return reshape(codewords, (*indices.shape[:-1], self.latent_channels))

    def stored(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims C"]:
        """Codewords side by side, not normalised, as MGVQ's released second stage takes them."""
        self.check_indices(indices)
        codewords = ops.select_codewords(self.codebook, indices)
        return reshape(codewords, (*indices.shape[:-1], self.latent_channels))

    def _losses(self, tokens, codewords, keep) -> dict[str, Float[Array, " G"]]:
        """Mean over kept tokens and channels, 0 for a group without any."""
        count = jnp.maximum(jnp.sum(keep, 0), 1) * tokens.shape[-1]

        def mean_square(difference):
            return jnp.sum(jnp.where(keep[..., None], difference**2, 0.0), (0, 2)) / count

        return {
            "vq": mean_square(codewords - jax.lax.stop_gradient(tokens)),
            "commit": self.beta * mean_square(jax.lax.stop_gradient(codewords) - tokens),
        }

    def _reseeding(self, tokens, keep, usage_ema, sent) -> dict[str, jax.Array]:
        """What `post_update` takes; groups without a kept token stay as they are."""
        drawn = ops.draw_tokens(self.make_rng("reseed"), tokens, self.codebook, sent)
        is_used = jnp.any(keep, 0)[:, None]
        return {
            "reseed_codewords": ops.take_tokens(jax.lax.stop_gradient(tokens), drawn),
            "reseed_keep": jnp.where(is_used, ops.reseed_weight(usage_ema), 1.0),
        }

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, jax.Array]) -> Mapping:
        """Moves dead codewords onto tokens of the batch."""
        if not update:
            return params
        moved = ops.reseed(params["codebook"], update["reseed_codewords"], update["reseed_keep"])
        return {**params, "codebook": moved}


def init_codebook(key: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "G K D"]:
    """Codewords uniform in +-1 / (G K), then l2-normalised, as released."""
    bound = 1.0 / (shape[0] * shape[1])
    return ops.l2_normalize(jax.random.uniform(key, shape, jnp.float32, -bound, bound))
