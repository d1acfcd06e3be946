"""MGVQ's second stage: a class-conditional transformer over positions, and a head over groups.

The released applications/autoregressive (LlamaGen's gpt.py with a projector of codewords and
AR_Head), whose training code is not public. Modules and their names below are ours.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from vqlab.models.class_embedding import ClassEmbedding
from vqlab.models.group_head import LAYER_NORM_EPS, GroupHead
from vqlab.nn.llama import (
    Block,
    Cache,
    empty_cache,
    hidden_width,
    linear,
    rms_norm,
    run_blocks,
    step_blocks,
)
from vqlab.ops.mesh import reshape, split_batch
from vqlab.ops.position import rotary_table

# Width, depth and heads as published (LlamaGen, table 1; MGVQ's GPT_models).
SIZES = {"B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1280, 36, 20), "XXL": (1536, 48, 24)}


class CodewordProjector(nn.Module):
    """Linear, exact GELU, linear, layer norm, all but the norm without bias: [..., C] -> width."""

    width: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, codewords: Float[Array, "... C"]) -> Float[Array, "... width"]:
        x = linear(self.width // 2, dtype=self.dtype, name="fc1")(codewords)
        x = linear(self.width, dtype=self.dtype, name="fc2")(jax.nn.gelu(x, approximate=False))
        return nn.LayerNorm(LAYER_NORM_EPS, use_fast_variance=False, dtype="float32", name="norm")(
            x
        )


class IndexTransformer(nn.Module):
    """Indices of an image, position by position in reading order, given its class.

    The input at a position is the class at first, then the codewords of the position before, side
    by side.

    Attributes:
      grid: (h, w) positions of an image, L = h w of them; (1, S) for a sequence.
      num_groups: G; 1 for plain vector quantization.
      codebook_size: K, codewords per group.
      latent_channels: C of the codewords of all groups.
      num_classes: 0 for none.
      width, depth, num_heads: of the transformer over positions; `SIZES`.
      head_depth: blocks of the head over groups.
      dropout: of embeddings and branches of the transformer over positions in training.
      label_dropout: share of labels that training leaves out.
      dtype: of the blocks; parameters, norms and logits are float32.
    """

    grid: tuple[int, int]
    num_groups: int
    codebook_size: int
    latent_channels: int
    num_classes: int
    width: int
    depth: int
    num_heads: int
    head_depth: int = 2
    dropout: float = 0.1
    label_dropout: float = 0.1
    dtype: Dtype = "float32"

    objective: ClassVar[str] = "index_prediction"

    def setup(self):
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} does not split into {self.num_heads} heads")
        # Position p is read at token p, whose input is the class or position p - 1.
        table = rotary_table(*self.grid, self.width // self.num_heads, num_prefix=1)
        self.table = jnp.asarray(table)
        self.class_embed = ClassEmbedding(self.num_classes, self.width, self.label_dropout)
        self.projector = CodewordProjector(self.width, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        hidden = hidden_width(self.width)
        self.blocks = Block(self.num_heads, hidden, False, self.dropout, self.dtype)
        self.norm = rms_norm()
        self.head = GroupHead(
            self.num_groups,
            self.codebook_size,
            self.width,
            self.num_positions,
            self.head_depth,
            self.dtype,
        )

    @property
    def num_positions(self) -> int:
        """L."""
        return math.prod(self.grid)

    def __call__(
        self,
        codewords: Float[Array, "B L C"],
        indices: Int[Array, "B L G"],
        labels: Int[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L G K"]:
        """Logits of every index, given those before it and the class; `codewords` are theirs.

        `train` draws from the streams "dropout" and "label_dropout". Label `num_classes` is no
        class.
        """
        return self.head_logits(self.hidden(codewords, labels, train=train), indices, train=train)[
            :, :, 1:
        ]

    def hidden(
        self, codewords: Float[Array, "B L C"], labels: Int[Array, " B"], *, train: bool = False
    ) -> Float[Array, "B L D"]:
        """States after the last norm; that of position p has seen the positions before it."""
        start = self.class_embed(labels, train=train)[:, None]
        x = jnp.concatenate([start, self.project(codewords)[:, :-1]], axis=1)
        x = self.drop(split_batch(x), deterministic=not train)
        x = run_blocks(self.blocks, x, self.depth, self.table[: x.shape[1]], train=train)
        return self.norm(x)

    def head_logits(
        self, hidden: Float[Array, "B L D"], indices: Int[Array, "B L G"], *, train: bool = False
    ) -> Float[Array, "B L G+1 K"]:
        """Of the head at every position; see `GroupHead`."""
        flat = reshape(hidden, (-1, self.width)), reshape(indices, (-1, self.num_groups))
        logits = self.head(*flat, train=train)
        return reshape(logits, (*hidden.shape[:2], *logits.shape[1:]))

    def project(self, codewords: Float[Array, "... C"]) -> Float[Array, "... D"]:
        """Codewords of a position as an input."""
        return self.projector(codewords)

    def embed_class(self, labels: Int[Array, " B"]) -> Float[Array, "B D"]:
        """The input of the first position."""
        return self.class_embed(labels)

    def empty_cache(self, labels: Int[Array, " B"]) -> Cache:
        """For all positions of so many images."""
        head_dim = self.width // self.num_heads
        return empty_cache(
            labels, self.depth, self.num_heads, self.num_positions, head_dim, self.dtype
        )

    def step(
        self, x: Float[Array, "B D"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B D"], Cache]:
        """(state of `position` after the last norm, cache) from its input."""
        table = jax.lax.dynamic_slice_in_dim(self.table, position, 1)
        x, cache = step_blocks(self.blocks, x[:, None], cache, position, self.depth, table)
        return self.norm(x[:, 0]), cache

    def begin_groups(self, hidden: Float[Array, "B D"]) -> tuple[Float[Array, "B K"], Cache]:
        """See `GroupHead.begin`."""
        return self.head.begin(hidden)

    def step_groups(
        self, cache: Cache, indices: Int[Array, " B"], group: Int[Array, ""]
    ) -> tuple[Float[Array, "B K"], Cache]:
        """See `GroupHead.step`."""
        return self.head.step(cache, indices, group)
