"""MGVQ's small head: the G indices of one position, one after the other (AR_Head)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from vqlab.nn.llama import Block, Cache, empty_cache, linear, normal_init, run_blocks, step_blocks
from vqlab.ops.mesh import split_batch

LAYER_NORM_EPS = 1e-5


class GroupHead(nn.Module):
    """A causal transformer over [hidden state, start, index 0, ..., index G - 2].

    One table of indices and one output layer serve all groups; learned positions tell them apart.

    Attributes:
      num_groups: G, which is also the number of heads.
      codebook_size: K.
      width: of the hidden states and of the head.
      num_positions: rows of the table of positions, of which G + 1 are used; the released code has
        one for each position of the image.
      depth: blocks, which drop nothing, as released.
      dtype: of the blocks; logits are float32.
    """

    num_groups: int
    codebook_size: int
    width: int
    num_positions: int
    depth: int = 2
    dtype: Dtype = "float32"

    def setup(self):
        if self.width % self.num_groups:
            raise ValueError(
                f"width={self.width} does not split into a head for each of "
                f"{self.num_groups} groups"
            )
        self.start = self.param("start", normal_init, (self.width,))
        shape = (max(self.num_positions, self.num_groups + 1), self.width)
        self.position_embed = self.param("position_embed", nn.initializers.zeros, shape)
        self.index_embed = self.param("index_embed", normal_init, (self.codebook_size, self.width))
        self.blocks = Block(self.num_groups, 4 * self.width, True, dtype=self.dtype, name="blocks")
        self.norm = nn.LayerNorm(LAYER_NORM_EPS, use_fast_variance=False, dtype="float32")
        self.output = linear(self.codebook_size)

    def __call__(
        self, hidden: Float[Array, "N D"], indices: Int[Array, "N G"], *, train: bool = False
    ) -> Float[Array, "N G+1 K"]:
        """Logits after every element: those of the first are not used, 1 + g is of group g."""
        start = jnp.broadcast_to(self.start, hidden.shape)
        x = jnp.stack([hidden, start], axis=1)
        x = jnp.concatenate([x, self.index_embed[indices[:, :-1]]], axis=1)
        x = split_batch(x + self.position_embed[: x.shape[1]])
        return self.logits(run_blocks(self.blocks, x, self.depth, train=train))

    def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Of what the blocks give."""
        return self.output(self.norm(x))

    def begin(self, hidden: Float[Array, "N D"]) -> tuple[Float[Array, "N K"], Cache]:
        """(logits of group 0, cache) of a position."""
        cache = empty_cache(
            hidden,
            self.depth,
            self.num_groups,
            self.num_groups + 1,
            self.width // self.num_groups,
            self.dtype,
        )
        x = jnp.stack([hidden, jnp.broadcast_to(self.start, hidden.shape)], axis=1)
        x = x + self.position_embed[:2]
        x, cache = step_blocks(self.blocks, x, cache, jnp.int32(0), self.depth)
        return self.logits(x[:, -1]), cache

    def step(
        self, cache: Cache, indices: Int[Array, " N"], group: Int[Array, ""]
    ) -> tuple[Float[Array, "N K"], Cache]:
        """(logits of group `group` + 1, cache) after the indices of `group`."""
        position = jax.lax.dynamic_index_in_dim(self.position_embed, group + 2, keepdims=False)
        x = (self.index_embed[indices] + position)[:, None]
        x, cache = step_blocks(self.blocks, x, cache, group + 2, self.depth)
        return self.logits(x[:, 0]), cache
