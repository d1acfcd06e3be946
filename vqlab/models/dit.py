"""Semanticist's denoiser: a diffusion transformer that reads concepts as extra tokens.

Semanticist, sections 4.2 and C.1; diffusion_transfomer.py, which builds on DiT (Peebles and Xie,
2022, models.py).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from vqlab.nn.layers import conv_init, precision_of
from vqlab.nn.transformer import (
    MLP,
    PatchEmbed,
    SelfAttention,
    dense,
    layer_norm,
    recomputed,
    scan_blocks,
    xavier_init,
)
from vqlab.ops.mesh import rearrange, split_batch, split_features
from vqlab.ops.position import sincos_table, time_features
from vqlab.ops.resize import bicubic

TIME_FEATURES = 256

normal_init = nn.initializers.normal(0.02)
zeros_init = nn.initializers.zeros


class DenoiserOutput(NamedTuple):
    """prediction: [B, h, w, out_channels] float32. features: [B, h/p, w/p, repa_dim] or None."""

    prediction: jax.Array
    features: jax.Array | None


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated (adaLN-Zero, DiT 3.2).

    x [B,N,D] and modulation [B,6D] -> [B,N,D]: shift, scale and gate of attention, then those of
    the MLP. Branches are in `dtype`; x, to which they add, stays float32 as in the released code
    under autocast. With gates of zero the block is the identity.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], modulation: Float[Array, "B six_D"]
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation[:, None], 6, axis=-1)
        attention = SelfAttention(self.num_heads, xavier_init, self.dtype, name="attention")
        mlp = MLP(int(width * self.mlp_ratio), True, xavier_init, self.dtype, name="mlp")
        x = x + gate1 * attention(modulated_norm(x, shift1, scale1).astype(self.dtype))
        return x + gate2 * mlp(modulated_norm(x, shift2, scale2).astype(self.dtype))


def modulated_norm(x: Array, shift: Array, scale: Array) -> Float[Array, "B N D"]:
    """norm(x) (1 + scale) + shift in float32; shift and scale [B,1,D]."""
    shift, scale = shift.astype(jnp.float32), scale.astype(jnp.float32)
    return layer_norm(affine=False)(x) * (1 + scale) + shift


class DiT(nn.Module):
    """Noisy latents, times and concepts -> prediction of the noise (or velocity) and its variance.

    Concepts join the sequence of patches through a linear layer, without positions: their order
    shows in their content and in the nulls, of which each place has its own.

    Attributes:
      latent_size: side of the latents that the position table is for; others interpolate it.
      in_channels, out_channels: of the latents and of the prediction.
      patch_size, width, depth, num_heads, mlp_ratio: of the transformer.
      num_concepts, concept_dim: S and D.
      repa_layer: number of blocks before the features for REPA are taken.
      repa_dim: channels of these features; 0: none, and no parameters for them.
      repa_width: inside the projector to these features.
      dtype: of the activations; parameters are float32.
      remat: store only the input of each block for the backward pass; see `recomputed`.
    """

    latent_size: int
    in_channels: int
    out_channels: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    num_concepts: int
    concept_dim: int
    mlp_ratio: float = 4.0
    repa_layer: int = 8
    repa_dim: int = 0
    repa_width: int = 2048
    dtype: Dtype = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "B h w C"],
        t: Array,
        concepts: Float[Array, "B S D"],
        *,
        keep_mask: Bool[Array, "B S"] | None = None,
    ) -> DenoiserOutput:
        """x_t at times t [B], as the time embedding takes them (0..999 as published).

        Concepts where `keep_mask` is False are the learned `null_concepts`; all of them where it is
        None are kept.
        """
        self._check(x_t, concepts)
        patches = self._patches(x_t)
        grid = {"h": patches.shape[1], "w": patches.shape[2]}
        patches = rearrange(patches, "b h w d -> b (h w) d")
        condition = self._time(t)
        tokens = [patches, self._concepts(concepts, keep_mask)]
        x = jnp.concatenate([x.astype(jnp.float32) for x in tokens], axis=1)
        x, hidden = self._blocks(x, condition, patches.shape[1])
        x = self._final(x[:, : patches.shape[1]], condition)
        p = self.patch_size
        prediction = rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", p=p, q=p, **grid)
        if hidden is None:
            return DenoiserOutput(prediction, None)
        features = self._project(rearrange(hidden, "b (h w) d -> b h w d", **grid))
        return DenoiserOutput(prediction, features)

    def _check(self, x_t: Array, concepts: Array) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not split into {self.num_heads} heads")
        if self.latent_size % self.patch_size:
            raise ValueError(
                f"latent_size={self.latent_size} is no multiple of patch_size={self.patch_size}"
            )
        if self.repa_dim and not 1 <= self.repa_layer <= self.depth:
            raise ValueError(
                f"repa_layer={self.repa_layer} is out of range: choose 1..{self.depth}"
            )
        if x_t.ndim != 4 or x_t.shape[-1] != self.in_channels:
            raise ValueError(f"latents {x_t.shape} must be [B, h, w, {self.in_channels}]")
        height, width = x_t.shape[1:3]
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise ValueError(
                f"latents of {height}x{width}: both sides must be multiples of {self.patch_size}"
            )
        expected = (self.num_concepts, self.concept_dim)
        if concepts.shape[1:] != expected:
            raise ValueError(f"concepts {concepts.shape} must be [B, {expected[0]}, {expected[1]}]")

    def _patches(self, x_t: Array) -> Float[Array, "B h w D"]:
        """Embedded patches with their positions."""
        patches = PatchEmbed(
            self.width, self.patch_size, patch_init, self.dtype, name="patch_embed"
        )(x_t)
        side = self.latent_size // self.patch_size
        table = self.variable(
            "constants", "position_table", lambda: jnp.asarray(sincos_table(side, side, self.width))
        ).value.reshape(side, side, self.width)
        height, width = patches.shape[1:3]
        if (height, width) != (side, side):
            table = bicubic(table, height, width)
        return patches + jax.lax.stop_gradient(table)

    def _time(self, t: Array) -> Float[Array, "B D"]:
        x = time_features(t.astype(jnp.float32), TIME_FEATURES)
        x = dense(self.width, dtype=self.dtype, kernel_init=normal_init, name="time_fc1")(x)
        x = jax.nn.silu(x)
        return dense(self.width, dtype=self.dtype, kernel_init=normal_init, name="time_fc2")(x)

    def _concepts(self, concepts: Array, keep_mask: Array | None) -> Float[Array, "B S D"]:
        nulls = self.param("null_concepts", normal_init, (self.num_concepts, self.concept_dim))
        if keep_mask is not None:
            concepts = jnp.where(keep_mask[..., None], concepts, nulls)
        return dense(self.width, dtype=self.dtype, kernel_init=conv_init, name="concept_embed")(
            concepts
        )

    def _blocks(
        self, x: Array, condition: Array, num_patches: int
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B P D"] | None]:
        """The last hidden state, and that of the patches after block `repa_layer`."""
        block_class = recomputed(DiTBlock, everything=self.remat)
        block = block_class(self.num_heads, self.mlp_ratio, self.dtype, name="blocks")
        is_repa_layer = jnp.arange(1, self.depth + 1) == self.repa_layer if self.repa_dim else None

        def step(block: nn.Module, carry: Any, inputs: tuple[Array, Array | None]) -> Any:
            x, hidden = carry
            modulation, is_repa_layer = inputs
            x = block(x, modulation)
            if is_repa_layer is not None:  # picked on the way: storing all layers costs memory
                hidden = jnp.where(is_repa_layer, x[:, :num_patches], hidden)
            return x, hidden

        hidden = jnp.zeros_like(x[:, :num_patches]) if self.repa_dim else None
        per_layer = (self._modulations(condition), is_repa_layer)
        return scan_blocks(block, step, (x, hidden), per_layer, self.depth)

    def _modulations(self, condition: Array) -> Float[Array, "L B six_D"]:
        """Shifts, scales and gates of all blocks, from a linear layer for each; zero at first.

        These layers hold a third of the parameters and read one row a sample. In front of the scan
        nothing copies their kernels out of the stack or the gradients into it.
        """
        # Not `dense`: jax 0.10.2 cannot batch its product over parameters that are NumPy arrays.
        layer = nn.Dense(
            6 * self.width,
            dtype=self.dtype,
            precision=precision_of(self.dtype),
            kernel_init=zeros_init,
            name="modulation",
        )
        each = nn.vmap(
            lambda layer, x: layer(x), variable_axes={"params": 0}, split_rngs={"params": True}
        )
        x = jax.nn.silu(condition)
        modulations = each(layer, jnp.broadcast_to(x, (self.depth, *x.shape)))
        return split_batch(split_features(modulations), axis=1)

    def _final(self, x: Array, condition: Array) -> Float[Array, "B N D"]:
        modulation = dense(
            2 * self.width, dtype=self.dtype, kernel_init=zeros_init, name="final_modulation"
        )(jax.nn.silu(condition))
        shift, scale = jnp.split(modulation[:, None], 2, axis=-1)
        # The last layer is float32: predictions are compared in float32.
        return dense(
            self.patch_size**2 * self.out_channels, kernel_init=zeros_init, name="final_linear"
        )(modulated_norm(x, shift, scale))

    def _project(self, x: Array) -> Float[Array, "B h w F"]:
        """REPA's projector: three linear layers with SiLU between (SiT's build_mlp)."""
        for name in ("repa_fc1", "repa_fc2"):
            layer = dense(self.repa_width, dtype=self.dtype, kernel_init=conv_init, name=name)
            x = jax.nn.silu(layer(x))
        return dense(self.repa_dim, kernel_init=conv_init, name="repa_fc3")(x)


def patch_init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """Xavier uniform of the matrix that a [p,p,C,D] kernel is."""
    return xavier_init(key, (shape[0] * shape[1] * shape[2], shape[3]), dtype).reshape(shape)
