"""What quantizers with codebooks of plain vectors share: how codewords are found and learned.

VectorQuantizer has one codebook, ResidualQuantizer one for each of its layers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.layers import FLOAT32
from vqlab.nn.quantized import CountingBottleneck, both
from vqlab.ops import codebook as ops
from vqlab.ops import codebook_ema
from vqlab.ops.mesh import reshape
from vqlab.ops.straight_through import rotated_through, straight_through
from vqlab.registry import check_choice

LEARNING = {"gradient": "vq and commitment loss", "ema": "running means"}
DISTANCES = {"euclidean": "of vectors as they are", "cosine": "of unit vectors"}


class LearnedCodebooks(CountingBottleneck):
    """G codebooks [K, D] that tokens [N, G, D] are quantized with.

    With `distance` "cosine" tokens and codewords are l2-normalised, and the decoder reads unit
    codewords. Losses, float32 [G], means over kept tokens and channels, zero outside training:
    "commit", and "vq" where codewords learn by gradient. Where they learn by "ema" each one is the
    running mean of its tokens (ops.codebook_ema): collection `codebook_stats` then also holds
    `ema_counts` [G, K] and `ema_sums` [G, K, D], and the parameter follows in `post_update`.

    With `reseed` codewords out of use move onto tokens of the batch as in `ops.codebook.reseed`: by
    `ops.codebook.draw_tokens` if the distance is the cosine, otherwise onto uniformly drawn ones.
    Random stream, in training only: "reseed". The forward pass never changes the codebook.

    codebook_size: K. latent_channels: C. codebook_dim: D, channels of a codeword; 0 for C, any
    other number adds linear maps in front and behind. beta: weight of the commitment loss.
    codebook_weight: of the vq loss. ema_decay: share that running sums keep in a step.
    rotation_trick: gradients are rotated as the codeword is (ops.straight_through), not passed
    straight. usage_decay: rate of `usage_ema`. eval_gradient: outside training too, gradients pass
    to the encoder; else latents are the codewords alone, as in vector-quantize-pytorch.
    """

    codebook_size: int
    latent_channels: int
    codebook_dim: int = 0
    distance: str = "euclidean"
    learning: str = "gradient"
    reseed: bool = True
    beta: float = 0.25
    codebook_weight: float = 1.0
    ema_decay: float = 0.99
    rotation_trick: bool = False
    usage_decay: float = 0.01
    eval_gradient: bool = True

    def __post_init__(self):
        check_choice("distance", self.distance, DISTANCES)
        check_choice("learning", self.learning, LEARNING)
        for name in ("codebook_size", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        super().__post_init__()

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    @property
    def channel_groups(self) -> int:
        """1: every index speaks of all channels."""
        return 1

    @property
    def dim(self) -> int:
        """D, channels of a codeword."""
        return self.codebook_dim or self.latent_channels

    @property
    def learns_by_ema(self) -> bool:
        """Whether codewords are running means."""
        return self.learning == "ema"

    @property
    def num_codebooks(self) -> int:
        """How many there are; G unless groups share one."""
        return self.num_groups

    def setup(self):
        shape = (self.num_codebooks, self.codebook_size, self.dim)
        self.codebook = self.param("codebook", self._init_codebook, shape)
        self.make_meters()
        if self.learns_by_ema:
            self.ema_counts = self.variable("codebook_stats", "ema_counts", jnp.ones, shape[:2])
            self.ema_sums = self.variable("codebook_stats", "ema_sums", lambda: self.codebook)
        if self.dim != self.latent_channels:
            self.project_in = nn.Dense(self.dim, precision=FLOAT32)
            self.project_out = nn.Dense(self.latent_channels, precision=FLOAT32)

    def _init_codebook(self, key, shape):
        """Uniform in +-1 / K, as in VQGAN's quantize.py; l2-normalised for the cosine."""
        bound = 1.0 / shape[1]
        return self.as_compared(jax.random.uniform(key, shape, jnp.float32, -bound, bound))

    @nn.nowrap
    def as_compared(self, vectors: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
        """Unit vectors if the distance is the cosine."""
        return ops.l2_normalize(vectors) if self.distance == "cosine" else vectors

    def to_tokens(self, latents: Float[Array, "*dims C"]) -> Float[Array, "N D"]:
        """Latents as float32 tokens of the codebook's width."""
        tokens = latents.astype(jnp.float32)
        if self.dim != self.latent_channels:
            tokens = self.project_in(tokens)
        return reshape(tokens, (-1, self.dim))

    def from_tokens(self, tokens: Float[Array, "*dims D"]) -> Float[Array, "*dims C"]:
        """Quantized tokens as what the decoder reads."""
        return self.project_out(tokens) if self.dim != self.latent_channels else tokens

    def all_codebooks(self) -> Float[Array, "G K D"]:
        """One for each group, as they are compared with; running means are kept so."""
        codebook = self.codebook if self.learns_by_ema else self.as_compared(self.codebook)
        return jnp.broadcast_to(codebook, (self.num_groups, *codebook.shape[1:]))

    def nearest(
        self, tokens: Float[Array, "N G D"], codebooks: Float[Array, "G K D"]
    ) -> Int[Array, "N G"]:
        """Indices of the nearest codewords, both `as_compared`."""
        return ops.nearest_codeword(
            tokens, codebooks, "dot" if self.distance == "cosine" else self.distance
        )

    def select(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims G D"]:
        """The codewords of these indices."""
        return ops.select_codewords(self.all_codebooks(), indices)

    def pass_through(self, token, codeword, train: bool):
        """`codeword` with a gradient for the encoder."""
        if not (train or self.eval_gradient):
            return codeword
        return (rotated_through if self.rotation_trick else straight_through)(token, codeword)

    def losses(
        self,
        tokens: Float[Array, "N G D"],
        codewords: Float[Array, "N G D"],
        keep: Bool[Array, "N G"],
        sent: Bool[Array, " N"] | None = None,
    ) -> dict[str, Float[Array, " G"]]:
        """By name; 0 for a group without a kept token, of those that are `sent` (None: all)."""
        keep = both(keep, sent)
        count = jnp.maximum(jnp.sum(keep, 0), 1) * tokens.shape[-1]

        def mean_square(difference):
            return jnp.sum(jnp.where(keep[..., None], difference**2, 0.0), (0, 2)) / count

        losses = {"commit": self.beta * mean_square(jax.lax.stop_gradient(codewords) - tokens)}
        if not self.learns_by_ema:
            difference = codewords - jax.lax.stop_gradient(tokens)
            losses["vq"] = self.codebook_weight * mean_square(difference)
        return losses

    def no_losses(self) -> dict[str, Float[Array, " G"]]:
        """The same names outside training."""
        names = ("commit",) if self.learns_by_ema else ("commit", "vq")
        return {name: jnp.zeros(self.num_groups) for name in names}

    def learn(
        self,
        tokens: Float[Array, "N G D"],
        indices: Int[Array, "N G"],
        keep: Bool[Array, "N G"],
        sent: Bool[Array, " N"] | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(stats, update) of a training batch: what no gradient step does."""
        stats, usage_ema = self.count(indices, keep, self.usage_decay, sent)
        tokens, keep = jax.lax.stop_gradient(tokens), both(keep, sent)
        update = {}
        if self.learns_by_ema:
            update["codebook"] = self._move_means(tokens, indices, keep)
        if self.reseed:
            update |= self._reseeding(tokens, keep, usage_ema, sent)
        if update.keys() >= {"codebook", "reseed_keep"}:
            self._reseed_sums(update)
        return stats, update

    def _move_means(self, tokens, indices, keep):
        """The codebooks after the batch, of running sums that have moved."""
        counts, sums = self.ema_counts.value, self.ema_sums.value
        if self.num_codebooks == self.num_groups:
            counts, sums = codebook_ema.move(counts, sums, tokens, indices, keep, self.ema_decay)
        else:  # one group after the other moves what they share
            for group in range(self.num_groups):
                own = (x[:, group : group + 1] for x in (tokens, indices, keep))
                counts, sums = codebook_ema.move(counts, sums, *own, self.ema_decay)
        if not self.is_initializing():
            self.ema_counts.value, self.ema_sums.value = counts, sums
        is_moved = jnp.any(keep, 0 if len(counts) == self.num_groups else None)
        means = self.as_compared(codebook_ema.means(counts, sums))
        return jnp.where(jnp.reshape(is_moved, (-1, 1, 1)), means, self.codebook)

    def _reseeding(self, tokens, keep, usage_ema, sent):
        """A token for each codeword, and how much of the codeword stays."""
        if self.num_codebooks != self.num_groups:
            if sent is not None:
                sent = reshape(jnp.broadcast_to(sent[:, None], keep.shape), (-1,))
            tokens, keep = reshape(tokens, (-1, 1, self.dim)), reshape(keep, (-1, 1))
            usage_ema = jnp.max(usage_ema, 0, keepdims=True)
        key = self.make_rng("reseed")
        if self.distance == "cosine":
            drawn = ops.draw_tokens(key, tokens, self.codebook, sent)
        else:
            drawn = ops.draw_uniformly(key, usage_ema.shape, tokens.shape[0], sent)
        is_used = jnp.any(keep, 0)[:, None]
        return {
            "reseed_codewords": ops.take_tokens(tokens, drawn),
            "reseed_keep": jnp.where(is_used, ops.reseed_weight(usage_ema), 1.0),
        }

    def _reseed_sums(self, update):
        """Running sums that have the reseeded codewords as their means."""
        if self.is_initializing():
            return
        moved = ops.reseed(update["codebook"], update["reseed_codewords"], update["reseed_keep"])
        moved = self.as_compared(moved)
        sums = moved * codebook_ema.smoothed(self.ema_counts.value)[..., None]
        is_moved = update["reseed_keep"][..., None] < 1.0
        self.ema_sums.value = jnp.where(is_moved, sums, self.ema_sums.value)

    @nn.nowrap
    def post_update(self, params: Mapping[str, Any], update: Mapping[str, jax.Array]) -> Mapping:
        """Running means take the codebook's place; codewords out of use move onto tokens."""
        if not update:
            return params
        codebook = update.get("codebook", params["codebook"])
        if "reseed_keep" in update:
            codebook = ops.reseed(codebook, update["reseed_codewords"], update["reseed_keep"])
            codebook = self.as_compared(codebook) if self.learns_by_ema else codebook
        return {**params, "codebook": codebook}
