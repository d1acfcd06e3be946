"""Semanticist's encoder: a vision transformer whose last tokens are ordered concepts.

Semanticist, sections 4.1 and C.1; vision_transformer.py, and diffuse_slot.py encode_slots.
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.models.tokenizer import check_images
from vqlab.nn.layers import conv_init
from vqlab.nn.transformer import (
    Block,
    PatchEmbed,
    dense,
    layer_norm,
    recomputed,
    scan_blocks,
)
from vqlab.ops.mesh import placed_as
from vqlab.ops.resize import bicubic


class ConceptEncoder(nn.Module):
    """images [B,H,W,3] in [-1,1] -> concepts [B,S,D] float32, each of mean 0 and variance 1.

    The sequence is a class token, P patches and S learned concept tokens. With `is_causal` the
    first two never see concepts, and concept s sees no later one, so that the first concepts are
    the same however many follow.

    Attributes:
      image_size: side in pixels that the positions are learned for; others interpolate them.
      patch_size, width, depth, num_heads, mlp_ratio: of the transformer.
      num_concepts, concept_dim: S and D.
      drop_path: stochastic depth, growing linearly from 0 to this over the blocks.
      is_causal: False: every token sees every other.
      token_deviation: standard deviation that positions and learned tokens start from. The
        published 0.02 hides places behind pixels for thousands of steps; short runs want more.
      kernel_deviation: that of the blocks' kernels. The published 0.02 is for a width of 768; with
        it the blocks of narrow transformers do next to nothing at first.
      dtype: of the activations; parameters are float32.
      remat: store only the input of each block for the backward pass; see `recomputed`.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    num_concepts: int
    concept_dim: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    is_causal: bool = True
    token_deviation: float = 0.02
    kernel_deviation: float = 0.02
    dtype: Dtype = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False
    ) -> Float[Array, "B S D"]:
        """`train` draws from the stream "drop_path"."""
        self._check(images)
        x = self._blocks(self._tokens(images), train=train)[:, -self.num_concepts :]
        x = layer_norm(name="norm")(x)
        # The rest is float32: these are the numbers that are stored, compared and modelled.
        x = dense(self.concept_dim, kernel_init=conv_init, name="to_concepts")(x)
        x = x - x.mean(axis=-1, keepdims=True)
        return x / jnp.std(x, axis=-1, keepdims=True, ddof=1)

    def _check(self, images: Array) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not split into {self.num_heads} heads")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is no multiple of patch_size={self.patch_size}"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} is out of range: choose 0 <= p < 1")
        if self.concept_dim < 2:
            raise ValueError(f"concept_dim={self.concept_dim}: a concept needs 2 or more numbers")
        check_images(images, self.patch_size)

    def _tokens(self, images: Array) -> Float[Array, "B N D"]:
        """Class token, patches and concept tokens, with their positions, in float32."""
        side = self.image_size // self.patch_size
        num_patches, total = side * side, 1 + side * side + self.num_concepts
        # The released network reads pixels in [0, 1].
        patches = PatchEmbed(
            self.width, self.patch_size, conv_init, self.dtype, name="patch_embed"
        )((images + 1) / 2)
        init = nn.initializers.normal(self.token_deviation)
        cls = self.param("cls_token", init, (self.width,))
        concepts = self.param("concept_tokens", init, (self.num_concepts, self.width))
        positions = self.param("position_embed", init, (total, self.width))
        first, grid, last = jnp.split(positions, [1, 1 + num_patches])
        grid = grid.reshape(side, side, self.width)
        if patches.shape[1:3] != (side, side):
            grid = bicubic(grid, *patches.shape[1:3])
        patches = rearrange(patches + grid, "b h w d -> b (h w) d")

        def for_each_image(tokens):
            tokens = jnp.broadcast_to(tokens, (images.shape[0], *tokens.shape))
            return placed_as(tokens, images)

        return jnp.concatenate(
            [for_each_image(cls + first), patches, for_each_image(concepts + last)], axis=1
        )

    def _blocks(self, x: Array, *, train: bool) -> Array:
        first_concept = x.shape[1] - self.num_concepts if self.is_causal else None
        is_dropping = train and self.drop_path > 0
        rates = jnp.linspace(0.0, self.drop_path, self.depth) if is_dropping else None
        block = recomputed(Block, everything=self.remat)(
            self.num_heads,
            self.mlp_ratio,
            self.dtype,
            first_concept,
            kernel_init=nn.initializers.normal(self.kernel_deviation),
            name="blocks",
        )
        return scan_blocks(
            block,
            lambda block, x, rate: block(x, rate),
            x,
            rates,
            self.depth,
        )
