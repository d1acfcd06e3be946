"""Index backpropagation: every codeword learns, through a softmax over the whole codebook.

Shi et al. 2024, "Scalable Image Tokenization with Index Backpropagation Quantization" (SEED-Voken,
IBQ's quantize.py, whose arrays it meets).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.quantized import CountingBottleneck, Kept, Quantized, flat
from vqlab.ops import codebook as ops
from vqlab.ops.bits import entropy
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape
from vqlab.ops.sent import mean


class IBQ(CountingBottleneck):
    """Each token becomes the codeword of the largest product with it.

    Backwards, latents are the softmax of the products times the codebook; the index itself is
    passed straight through. Softmax and entropies are over all codewords: training holds arrays of
    [N, K] numbers for N tokens, which nothing factorises; evaluation does not.

    Parameter `codebook` [1, K, C]. Losses, [1], in evaluation too: "soft", "commit" and "vq", mean
    squared distances with the gradients of the softmax, of the token and of the codeword, and
    "entropy": entropy_weight * (sample_weight * H(code | token), averaged over tokens, -
    batch_weight * H(code)) of the softmax at `entropy_temperature`, in nats.
    Stats in training: those of `CountingBottleneck`, and both entropies.

    codebook_size: K. latent_channels: C. beta: weight of "vq". entropy_offset: see
    `ops.bits.entropy`, of H(code) alone; 1e-5 as published. usage_decay: rate of `usage_ema`.
    """

    codebook_size: int
    latent_channels: int
    beta: float = 0.25
    entropy_weight: float = 0.05
    entropy_temperature: float = 0.01
    sample_weight: float = 1.0
    batch_weight: float = 1.0
    entropy_offset: float = 0.0
    usage_decay: float = 0.01

    title: ClassVar[str] = "IBQ"
    num_groups: ClassVar[int] = 1

    def __post_init__(self):
        for name in ("codebook_size", "latent_channels", "entropy_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        super().__post_init__()

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    def setup(self):
        shape = (1, self.codebook_size, self.latent_channels)
        self.codebook = self.param("codebook", jax.nn.initializers.normal(1.0), shape)
        self.make_meters()

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Quantize `latents`; zeros for `num_groups` 0 instead of 1 (or None)."""
        self.check_latents(latents)
        sent = flat(keep)
        used = check_kept("num_groups", num_groups, 1)
        tokens = reshape(latents.astype(jnp.float32), (-1, self.latent_channels))
        indices = ops.nearest_codeword(tokens[:, None], self.codebook, "dot")
        codewords = ops.select_codewords(self.codebook, indices)[:, 0]
        scores = self._scores(tokens)
        quantized = self._soft(scores, codewords)
        entropies = self._entropies(scores, sent)
        stats = {}
        if train:
            stats, _ = self.count(indices, jnp.ones(indices.shape, bool), self.usage_decay, sent)
            stats |= zip(("token_entropy", "batch_entropy"), entropies, strict=True)
        return Quantized(
            reshape(jnp.where(used > 0, quantized, 0.0), latents.shape).astype(latents.dtype),
            reshape(indices, (*latents.shape[:-1], 1)),
            self._losses(tokens, codewords, quantized, entropies, sent),
            stats,
            {},
        )

    def lookup(
        self, indices: Int[Array, "*dims 1"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """Codewords, float32; zeros for `num_groups` 0."""
        self.check_indices(indices)
        used = check_kept("num_groups", num_groups, 1)
        return jnp.where(used > 0, ops.select_codewords(self.codebook, indices)[..., 0, :], 0.0)

    def entropies(self, latents: Float[Array, "B *dims C"]) -> tuple[Array, Array]:
        """(H(code | token) averaged over tokens, H(code)) in nats, [1] each."""
        return self._entropies(self._scores(reshape(latents, (-1, self.latent_channels))))

    def _scores(self, tokens: Float[Array, "N C"]) -> Float[Array, "N K"]:
        tokens = tokens.astype(jnp.float32)
        return jnp.einsum("nc,kc->nk", tokens, self.codebook[0], precision="highest")

    def _soft(self, scores, codewords):
        """The codewords themselves, with the gradient of the softmax and their own."""
        codebook = jax.lax.stop_gradient(self.codebook[0])
        soft = jnp.einsum("nk,kc->nc", jax.nn.softmax(scores), codebook, precision="highest")
        return codewords + (soft - jax.lax.stop_gradient(soft))

    def _entropies(self, scores, sent=None):
        logits = scores / self.entropy_temperature
        probabilities, logs = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
        of_tokens = -mean(jnp.sum(probabilities * logs, -1), sent)
        of_batch = entropy(mean(probabilities, sent), offset=self.entropy_offset)
        return of_tokens.reshape(1), of_batch.reshape(1)

    def _losses(self, tokens, codewords, quantized, entropies, sent):
        def distance(a, b):
            return mean((a - b) ** 2, sent, (0, 1)).reshape(1)

        fixed = jax.lax.stop_gradient
        gap = self.sample_weight * entropies[0] - self.batch_weight * entropies[1]
        return {
            "soft": distance(quantized, tokens),
            "commit": distance(tokens, fixed(codewords)),
            "vq": self.beta * distance(codewords, fixed(tokens)),
            "entropy": self.entropy_weight * gap,
        }
