"""Quantizers: latents to codewords and back. MGVQ's is mgvq.py VectorQuantizer."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.ops import codebook as ops
from vqlab.ops import masks
from vqlab.ops.counts import check_kept

RECENT = 65_536  # indices per group that the usage meter looks back on, as in the released code


class Quantized(NamedTuple):
    """What a bottleneck returns.

    latents: [B, h, w, C], what the decoder reads. indices: [B, h, w, G] int32 of every group,
    masked or not; None where the bottleneck has none. losses: name -> [G] float32. stats: name ->
    array, empty unless training.
    """

    latents: jax.Array
    indices: jax.Array | None
    losses: dict[str, jax.Array]
    stats: dict[str, jax.Array]


class GroupedQuantizer(nn.Module):
    """Quantizes each of G channel groups with its own codebook, nearest by cosine.

    Tokens and codewords are l2-normalised in float32, so the decoder reads one unit vector per
    group, or zeros where a group is masked or not among the first `num_groups`. Gradients pass
    straight through to the normalised token. The forward pass never changes the codebook.

    Parameter `codebook` [G, K, D]. Collection `codebook_stats`: `usage_ema` [G, K], the running
    share of tokens per codeword; `recent_indices` [G, 65536] int32, the newest at the end, -1 where
    empty (also the place of a token masked by its sample). Random streams, used in training only:
    "mask" and "reseed".

    Training stats, float32 [G]: `usage`, share of the codewords among the recent indices;
    `perplexity` of the batch, masked tokens included; `dead`, share of the codewords whose running
    usage is below 1 % of the uniform 1 / K. With `reseed` also what `ops.codebook.reseed` takes
    after the optimizer step: `reseed_codewords` [G, K, D], a token for each codeword, and
    `reseed_keep` [G, K].

    num_groups: G. codebook_size: K, codewords per group. latent_channels: C, a multiple of G.
    beta: weight of the commitment loss. mask_range: () or two probabilities, spread over the
    groups; mask_probs: instead of it, G nested probabilities (ops.masks).
    mask_per_sample: draw masks for each sample, not once per batch.
    usage_decay: rate of `usage_ema`. reseed: whether the stats hold new codewords.
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

    has_indices: ClassVar[bool] = True

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
        self.usage_ema = self.variable(
            "codebook_stats", "usage_ema", jnp.zeros, shape[:2], jnp.float32
        )
        self.recent_indices = self.variable(
            "codebook_stats", "recent_indices", jnp.full, (self.num_groups, RECENT), -1, jnp.int32
        )

    def __call__(
        self, latents: Float[Array, "B h w C"], *, train: bool, num_groups: int | None = None
    ) -> Quantized:
        """Quantize `latents`; groups beyond the first `num_groups` (None: all) are zeros."""
        if latents.ndim != 4 or latents.shape[-1] != self.latent_channels:
            raise ValueError(
                f"latents {latents.shape} do not fit this quantizer's [B, h, w, "
                f"{self.latent_channels}]"
            )
        batch, height, width, _ = latents.shape
        tokens = ops.l2_normalize(latents.reshape(-1, self.num_groups, self.codebook.shape[-1]))
        indices = ops.nearest_codeword(tokens, self.codebook)
        codewords = ops.l2_normalize(ops.select_codewords(self.codebook, indices))
        keep = self._keep(batch, train, num_groups)
        keep_tokens = jnp.repeat(keep, height * width, 0, total_repeat_length=len(tokens))
        quantized = tokens + jax.lax.stop_gradient(codewords - tokens)
        quantized = jnp.where(keep_tokens[..., None], quantized, 0.0)
        losses = {name: jnp.zeros(self.num_groups) for name in ("vq", "commit")}
        stats = {}
        if train:
            losses = self._losses(tokens, codewords, keep_tokens)
            stats = self._observe(tokens, indices, keep_tokens)
        return Quantized(
            quantized.reshape(latents.shape).astype(latents.dtype),
            indices.reshape(batch, height, width, self.num_groups),
            losses,
            stats,
        )

    def lookup(
        self, indices: Int[Array, "*dims G"], *, num_groups: int | None = None
    ) -> Float[Array, "*dims C"]:
        """Unit codewords side by side, float32; zeros beyond `num_groups` groups (None: all)."""
        if indices.shape[-1] != self.num_groups:
            raise ValueError(
                f"indices {indices.shape} must end in {self.num_groups}, one index for each group"
            )
        used = check_kept("num_groups", num_groups, self.num_groups)
        codewords = ops.l2_normalize(ops.select_codewords(self.codebook, indices))
        codewords = jnp.where(jnp.arange(self.num_groups)[:, None] < used, codewords, 0.0)
        return codewords.reshape(*indices.shape[:-1], self.latent_channels)

    def _keep(self, batch: int, train: bool, num_groups: int | None) -> Bool[Array, "B G"]:
        used = check_kept("num_groups", num_groups, self.num_groups)
        keep = jnp.broadcast_to(jnp.arange(self.num_groups) < used, (batch, self.num_groups))
        if train and self.nested_probs:
            key = self.make_rng("mask")
            keep &= masks.draw_keep(key, self.nested_probs, batch, per_sample=self.mask_per_sample)
        return keep

    def _losses(self, tokens, codewords, keep) -> dict[str, Float[Array, " G"]]:
        """Mean over kept tokens and channels, 0 for a group without any."""
        count = jnp.maximum(jnp.sum(keep, 0), 1) * tokens.shape[-1]

        def mean_square(difference):
            return jnp.sum(jnp.where(keep[..., None], difference**2, 0.0), (0, 2)) / count

        return {
            "vq": mean_square(codewords - jax.lax.stop_gradient(tokens)),
            "commit": self.beta * mean_square(jax.lax.stop_gradient(codewords) - tokens),
        }

    def _observe(self, tokens, indices, keep) -> dict[str, jax.Array]:
        """Update `codebook_stats` from the kept tokens and return the training stats."""
        size = self.codebook_size
        counts = ops.codeword_counts(indices, size, keep)
        usage_ema = ops.update_usage(self.usage_ema.value, counts, self.usage_decay)
        is_used = jnp.any(keep, 0)[:, None]
        recent = ops.push_recent(self.recent_indices.value, jnp.where(keep, indices, -1))
        recent = jnp.where(is_used, recent, self.recent_indices.value)
        if not self.is_initializing():
            self.usage_ema.value = usage_ema
            self.recent_indices.value = recent
        stats = {
            "usage": ops.recent_usage(recent, size),
            "perplexity": ops.perplexity(ops.codeword_counts(indices, size)),
            "dead": jnp.mean(usage_ema < 0.01 / size, -1),
        }
        if self.reseed:
            drawn = ops.draw_tokens(self.make_rng("reseed"), tokens, self.codebook)
            groups = jnp.arange(self.num_groups)[:, None]
            stats["reseed_codewords"] = jax.lax.stop_gradient(tokens)[drawn, groups]
            stats["reseed_keep"] = jnp.where(is_used, ops.reseed_weight(usage_ema), 1.0)
        return stats


def init_codebook(key: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "G K D"]:
    """Codewords uniform in +-1 / (G K), then l2-normalised, as released."""
    bound = 1.0 / (shape[0] * shape[1])
    return ops.l2_normalize(jax.random.uniform(key, shape, jnp.float32, -bound, bound))
