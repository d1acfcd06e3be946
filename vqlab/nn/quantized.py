"""What every bottleneck returns and says of itself, and the meters of its codewords.

A bottleneck maps latents [B, ..., C] to `Quantized`, whatever lies between batch and channels: a
grid of positions or a sequence of tokens. It is a Linen module with

  input_channels, latent_channels   channels that it takes, and those that the decoder reads
  num_groups                        G, indices per position; 1 where there are no indices
  channel_groups                    parts of the channels that do not mix: G, or 1
  codebook_size                     K, codewords per group; None: continuous
  __call__(latents, *, train, num_groups=None, keep=None) -> Quantized
  lookup(indices [..., G], *, num_groups=None) -> [..., C], num_groups in a jitted program too
  lookup_groups(indices [..., G]) -> [..., G, D]

so that a new one is a file, a line in `vqlab.models.MODULES` and a config node. `keep` [B, ...]
says which tokens are sent, None for all: the others are quantized too, and count in no loss,
statistic or update.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.ops import codebook as ops
from vqlab.ops import masks
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape

# How many groups to keep: a number, also one that a jitted program is given; None for all.
Kept = int | Int[Array, ""] | None

RECENT = 65_536  # indices per group that the usage meter looks back on, as in MGVQ's released code


class Quantized(NamedTuple):
    """What a bottleneck returns.

    latents: [B, ..., C], what the decoder reads. indices: [B, ..., G] int32 of every group, masked
    or not; None where the bottleneck has none. losses: name -> [G] float32, or [1] of all groups
    together. stats: name -> array to log, empty unless training. update: what
    `Bottleneck.post_update` takes, empty unless training.
    """

    latents: jax.Array
    indices: jax.Array | None
    losses: dict[str, jax.Array]
    stats: dict[str, jax.Array]
    update: dict[str, jax.Array]


def flat(keep: Bool[Array, "B *dims"] | None) -> Bool[Array, " N"] | None:
    """Which of the N tokens are sent; None for all."""
    return None if keep is None else reshape(keep, (-1,))


def both(groups: Bool[Array, "N G"], sent: Bool[Array, " N"] | None) -> Bool[Array, "N G"]:
    """Where a group keeps a token that is sent."""
    return groups if sent is None else groups & sent[:, None]


class Bottleneck(nn.Module):
    """What bottlenecks have in common.

    title: its name in reports and model cards. paper: the address of its paper, "" for none.
    has_posterior: whether it takes moments, 2C channels for C latents, from which latents can be
    drawn.
    """

    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = ""
    has_posterior: ClassVar[bool] = False

    @property
    def has_indices(self) -> bool:
        """Whether `lookup` inverts what it gives."""
        return self.codebook_size is not None

    @property
    def channel_groups(self) -> int:
        """Parts of the channels that the layers around it must not mix."""
        return self.num_groups

    def lookup_groups(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims G D"]:
        """What each index says by itself; here its part of the channels."""
        return reshape(self.lookup(indices), (*indices.shape, -1))

    def stored(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims C"]:
        """Codewords as they are stored; here what the decoder reads."""
        return self.lookup(indices)

    @nn.nowrap
    def check_latents(self, latents: Array) -> None:
        """Raises ValueError unless these are [B, ..., input_channels]."""
        if latents.ndim < 2 or latents.shape[-1] != self.input_channels:
            raise ValueError(
                f"latents {latents.shape} do not fit this quantizer's [B, ..., "
                f"{self.input_channels}]"
            )

    @nn.nowrap
    def check_indices(self, indices: Array) -> None:
        """Raises ValueError unless these are [..., G]."""
        if indices.shape[-1] != self.num_groups:
            raise ValueError(
                f"indices {indices.shape} must end in {self.num_groups}, one index for each group"
            )

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, jax.Array]) -> Mapping:
        """Its parameters after a change that is no gradient step; by default there is none."""
        del update
        return params


class CountingBottleneck(Bottleneck):
    """A bottleneck of codewords that counts which of them are in use, in training.

    Collection `codebook_stats`: `usage_ema` [G, K], the running share of tokens per codeword;
    `recent_indices` [G, 65536] int32, the newest at the end, -1 where empty (also the place of a
    token masked by its sample, or not sent).

    Stats, float32 [G]: `usage`, share of the codewords among the recent indices; `perplexity` of
    the batch, masked tokens included; `dead`, share of the codewords whose running usage is below
    1 % of the uniform 1 / K.
    """

    def make_meters(self) -> None:
        """To be called in `setup`."""
        shape = (self.num_groups, self.codebook_size)
        self.usage_ema = self.variable("codebook_stats", "usage_ema", jnp.zeros, shape, jnp.float32)
        self.recent_indices = self.variable(
            "codebook_stats", "recent_indices", jnp.full, (self.num_groups, RECENT), -1, jnp.int32
        )

    def keep_groups(
        self,
        batch: Any,  # an int, or a size that jax.export leaves open
        train: bool,
        num_groups: Kept,
        nested_probs: tuple[float, ...],
        per_sample: bool,
    ) -> Bool[Array, "B G"]:
        """The first `num_groups` (None: all); in training less those that random "mask" drops."""
        used = check_kept("num_groups", num_groups, self.num_groups)
        keep = jnp.broadcast_to(jnp.arange(self.num_groups) < used, (batch, self.num_groups))
        if train and nested_probs:
            key = self.make_rng("mask")
            keep &= masks.draw_keep(key, nested_probs, batch, per_sample=per_sample)
        return keep

    def count(
        self,
        indices: Int[Array, "N G"],
        keep: Bool[Array, "N G"],
        decay: float,
        sent: Bool[Array, " N"] | None = None,
    ) -> tuple[dict[str, Float[Array, " G"]], Float[Array, "G K"]]:
        """(stats, the new `usage_ema`) after a batch; only kept tokens count.

        `keep` is of the groups; tokens that are not `sent` (None: all are) count in no number.
        """
        size = self.codebook_size
        keep = both(keep, sent)
        if sent is not None:
            indices = jnp.where(sent[:, None], indices, -1)  # which is counted nowhere
        counts = ops.codeword_counts(indices, size, keep)
        usage_ema = ops.update_usage(self.usage_ema.value, counts, decay)
        recent = ops.push_recent(self.recent_indices.value, jnp.where(keep, indices, -1))
        recent = jnp.where(jnp.any(keep, 0)[:, None], recent, self.recent_indices.value)
        if not self.is_initializing():
            self.usage_ema.value = usage_ema
            self.recent_indices.value = recent
        stats = {
            "usage": ops.recent_usage(recent, size),
            "perplexity": ops.perplexity(ops.codeword_counts(indices, size)),
            "dead": jnp.mean(usage_ema < 0.01 / size, -1),
        }
        return stats, usage_ema
