"""Residual vector quantization: each layer quantizes what the layers before it have left.

Zeghidour et al. 2021, "SoundStream", algorithm 1; with the options of vector-quantize-pytorch's
ResidualVQ, whose arrays it meets.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.learned_codebooks import LearnedCodebooks
from vqlab.nn.quantized import Kept, Quantized, flat
from vqlab.ops import codebook as ops
from vqlab.ops import masks
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape
from vqlab.ops.straight_through import straight_through


class ResidualQuantizer(LearnedCodebooks):
    """L layers, whose codewords add up; they stand where other quantizers have groups.

    So `num_groups` is L, indices are [..., L], the first layer's first, and the first k of them
    decode by themselves: the sum of their codewords. Settings as in `LearnedCodebooks`. With the
    cosine a layer normalises what was left and adds a unit codeword.

    Gradients pass to the first layer's token once, as if the sum were one codeword. Random streams,
    in training only: "reseed", and "mask" for layer dropout.

    num_groups: L. shared: one codebook for all layers. mask_range, mask_probs, mask_per_sample:
    layers are dropped in training as GroupedQuantizer drops groups; a range of (1 / L, 1 - 1 / L)
    keeps each number of layers equally often. gradient_per_layer: every layer passes the gradient
    on, which multiplies it by the number of layers, as vector-quantize-pytorch does.
    """

    num_groups: int = 4
    shared: bool = False
    mask_range: tuple[float, ...] = ()
    mask_probs: tuple[float, ...] = ()
    mask_per_sample: bool = False
    gradient_per_layer: bool = False

    title: ClassVar[str] = "RVQ"

    def __post_init__(self):
        if self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1, a layer each")
        if self.mask_range and self.mask_probs:
            raise ValueError("give mask_range or mask_probs, not both")
        masks.check_mask_probs(self._nested_probs, self.num_groups)
        super().__post_init__()

    @property
    def _nested_probs(self) -> tuple[float, ...]:
        return self.mask_probs or masks.spread_mask_probs(self.mask_range, self.num_groups)

    @property
    def num_codebooks(self) -> int:
        """1 if the layers share it, otherwise one for each."""
        return 1 if self.shared else self.num_groups

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Quantize `latents`; only the first `num_groups` layers (None: all) add to the result."""
        self.check_latents(latents)
        tokens = self.to_tokens(latents)
        residuals, indices = self._search(tokens)
        tokens = jnp.broadcast_to(tokens[:, None], residuals.shape)
        tokens = self.as_compared(straight_through(tokens, residuals))
        codewords = self.select(indices)
        layers = self.keep_groups(
            latents.shape[0], train, num_groups, self._nested_probs, self.mask_per_sample
        )
        positions = math.prod(latents.shape[1:-1])
        layers = jnp.repeat(layers, positions, 0, total_repeat_length=tokens.shape[0])
        losses, stats, update = self.no_losses(), {}, {}
        if train:
            losses = self.losses(tokens, codewords, layers, flat(keep))
            stats, update = self.learn(tokens, indices, layers, flat(keep))
        quantized = reshape(
            self._add_up(tokens, codewords, layers, train), (*latents.shape[:-1], self.dim)
        )
        return Quantized(
            self.from_tokens(quantized).astype(latents.dtype),
            reshape(indices, (*latents.shape[:-1], self.num_groups)),
            losses,
            stats,
            update,
        )

    def lookup(
        self, indices: Int[Array, "*dims G"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """What the decoder reads of the first `num_groups` layers (None: all), float32."""
        self.check_indices(indices)
        used = check_kept("num_groups", num_groups, self.num_groups)
        is_kept = jnp.broadcast_to(jnp.arange(self.num_groups) < used, indices.shape)
        return self.from_tokens(_sum_kept(self.select(indices), is_kept))

    def lookup_groups(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims G D"]:
        """The codeword that each layer adds."""
        self.check_indices(indices)
        return self.select(indices)

    def _search(self, tokens: Float[Array, "N D"]) -> tuple[Float[Array, "N G D"], Array]:
        """What each layer is left with, and its index [N, G]; without gradients."""

        def layer(residual, codebook):
            codebook = codebook[None]
            index = self.nearest(self.as_compared(residual)[:, None], codebook)
            codeword = ops.select_codewords(codebook, index)[:, 0]
            return residual - codeword, (residual, index[:, 0])

        tokens, codebooks = jax.lax.stop_gradient((tokens, self.all_codebooks()))
        _, (residuals, indices) = jax.lax.scan(layer, tokens, codebooks)
        return jnp.moveaxis(residuals, 0, 1), indices.T

    def _add_up(self, tokens, codewords, keep, train: bool) -> Float[Array, "N D"]:
        """The sum of the kept layers, with a gradient for the encoder."""
        if self.gradient_per_layer:
            return _sum_kept(self.pass_through(tokens, codewords, train), keep)
        return self.pass_through(tokens[:, 0], _sum_kept(codewords, keep), train)


def _sum_kept(
    codewords: Float[Array, "*dims G D"], keep: Bool[Array, "*dims G"]
) -> Float[Array, "*dims D"]:
    """Layer after layer, so that a prefix of layers is the same sum wherever it is made."""
    total = jnp.zeros_like(codewords[..., 0, :])
    for layer in range(codewords.shape[-2]):
        total += jnp.where(keep[..., layer, None], codewords[..., layer, :], 0.0)
    return total
