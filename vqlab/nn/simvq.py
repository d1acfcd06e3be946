"""SimVQ: a frozen random codebook behind one linear map, which moves all codewords at once.

Zhu et al. 2024, "Addressing Representation Collapse in Vector Quantized Models with One Linear
Layer". It meets the arrays of vector-quantize-pytorch's SimVQ.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.layers import FLOAT32, conv_init
from vqlab.nn.quantized import CountingBottleneck, Kept, Quantized, flat
from vqlab.ops import codebook as ops
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape
from vqlab.ops.sent import mean
from vqlab.ops.straight_through import rotated_through, straight_through


class SimVQ(CountingBottleneck):
    """Each token becomes the nearest of K codewords by Euclidean distance.

    The codewords are `frozen_codebook` [K, D] of the collection `constants`, normal with variance
    1 / D, times the parameter `transform` [D, C], which alone is trained. Losses, [1], in
    evaluation too: "vq" and "commit", mean squared distances of codewords to tokens.

    codebook_size: K. latent_channels: C. codebook_dim: D; 0 for C. beta: weight of the commitment
    loss. codebook_weight: of the vq loss. rotation_trick: gradients are rotated as the codeword is
    (ops.straight_through), not passed straight. usage_decay: rate of `usage_ema`.
    """

    codebook_size: int
    latent_channels: int
    codebook_dim: int = 0
    beta: float = 0.25
    codebook_weight: float = 1.0
    rotation_trick: bool = False
    usage_decay: float = 0.01

    title: ClassVar[str] = "SimVQ"
    num_groups: ClassVar[int] = 1

    def __post_init__(self):
        for name in ("codebook_size", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        super().__post_init__()

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    def setup(self):
        dim = self.codebook_dim or self.latent_channels
        self.frozen_codebook = self.variable("constants", "frozen_codebook", self._draw, dim)
        self.transform = self.param("transform", conv_init, (dim, self.latent_channels))
        self.make_meters()

    def _draw(self, dim):
        draw = jax.random.normal(self.make_rng("params"), (self.codebook_size, dim))
        return draw / dim**0.5

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
        tokens = reshape(latents.astype(jnp.float32), (-1, 1, self.latent_channels))
        codebook = self.codewords()[None]
        indices = ops.nearest_codeword(tokens, codebook, "euclidean")
        codewords = ops.select_codewords(codebook, indices)
        stats = {}
        if train:
            stats, _ = self.count(indices, jnp.ones(indices.shape, bool), self.usage_decay, sent)
        through = rotated_through if self.rotation_trick else straight_through
        quantized = jnp.where(used > 0, through(tokens, codewords), 0.0)
        return Quantized(
            reshape(quantized, latents.shape).astype(latents.dtype),
            reshape(indices, (*latents.shape[:-1], 1)),
            self._losses(tokens, codewords, sent),
            stats,
            {},
        )

    def lookup(
        self, indices: Int[Array, "*dims 1"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """Codewords, float32; zeros for `num_groups` 0."""
        self.check_indices(indices)
        used = check_kept("num_groups", num_groups, 1)
        codewords = ops.select_codewords(self.codewords()[None], indices)[..., 0, :]
        return jnp.where(used > 0, codewords, 0.0)

    def codewords(self) -> Float[Array, "K C"]:
        """All of them."""
        return jnp.matmul(self.frozen_codebook.value, self.transform, precision=FLOAT32)

    def _losses(self, tokens, codewords, sent):
        def distance(a, b):
            return mean((a - jax.lax.stop_gradient(b)) ** 2, sent, (0, 1, 2)).reshape(1)

        return {
            "vq": self.codebook_weight * distance(codewords, tokens),
            "commit": self.beta * distance(tokens, codewords),
        }
