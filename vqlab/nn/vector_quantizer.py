"""Plain vector quantization: one codebook (van den Oord et al. 2017, section 3).

With the cosine it is the quantizer of LlamaGen (vq_model.py) and of TiTok; learned by running means
it is vector-quantize-pytorch's VectorQuantize, whose arrays it meets.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.learned_codebooks import LearnedCodebooks
from vqlab.nn.quantized import Kept, Quantized, flat
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape


class VectorQuantizer(LearnedCodebooks):
    """Each token becomes the nearest of K codewords; settings as in `LearnedCodebooks`.

    With the cosine, learned by gradient, it is a GroupedQuantizer of one group, to the bit.
    """

    title: ClassVar[str] = "VQ"
    num_groups: ClassVar[int] = 1

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
        used = check_kept("num_groups", num_groups, 1)
        tokens = self.as_compared(self.to_tokens(latents))[:, None]
        indices = self.nearest(tokens, self.all_codebooks())
        codewords = self.select(indices)
        losses, stats, update = self.no_losses(), {}, {}
        if train:
            of_groups, sent = jnp.ones(indices.shape, bool), flat(keep)
            losses = self.losses(tokens, codewords, of_groups, sent)
            stats, update = self.learn(tokens, indices, of_groups, sent)
        quantized = jnp.where(used > 0, self.pass_through(tokens, codewords, train), 0.0)
        quantized = reshape(quantized, (*latents.shape[:-1], self.dim))
        return Quantized(
            self.from_tokens(quantized).astype(latents.dtype),
            reshape(indices, (*latents.shape[:-1], 1)),
            losses,
            stats,
            update,
        )

    def lookup(
        self, indices: Int[Array, "*dims 1"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """What the decoder reads, float32; of zeros for `num_groups` 0."""
        self.check_indices(indices)
        used = check_kept("num_groups", num_groups, 1)
        return self.from_tokens(jnp.where(used > 0, self.select(indices)[..., 0, :], 0.0))
