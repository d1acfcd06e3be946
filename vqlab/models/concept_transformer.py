"""Semanticist's second stage: a class-conditional transformer over concepts with a diffusion head.

Semanticist, section 4.4 and appendix C.2; gpt.py of the released stage2. Concepts are continuous:
each is sampled by a diffusion process given the transformer's state.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int, Num

from vqlab.models.class_embedding import ClassEmbedding
from vqlab.models.diffusion_mlp import DiffusionMLP
from vqlab.nn.llama import (
    Block,
    Cache,
    empty_cache,
    hidden_width,
    normal_init,
    rms_norm,
    run_blocks,
    step_blocks,
)
from vqlab.nn.transformer import dense
from vqlab.ops.mesh import repeat, split_batch


class ConceptTransformer(nn.Module):
    """The first concepts of an image, one by one, given its class.

    Attributes:
      num_kept: S, how many concepts are modelled; 32 of 256 as published.
      concept_dim: D of a concept.
      num_classes: 0 for none.
      width, depth, num_heads: of the transformer; 1024, 24 and 16 as published (LlamaGen-L).
      process: a `vqlab.diffusion` process; the released flow has time_scale 1.
      num_class_tokens: how often the class is put before the concepts.
      head_width, head_depth, head_conditioning: see `DiffusionMLP`.
      dropout: of embeddings and branches in training.
      label_dropout: share of labels that training leaves out.
      dtype: of the blocks; parameters, norms and predictions are float32.
    """

    num_kept: int
    concept_dim: int
    num_classes: int
    width: int
    depth: int
    num_heads: int
    process: Any
    num_class_tokens: int = 1
    head_width: int = 1536
    head_depth: int = 12
    head_conditioning: str = "concat"
    dropout: float = 0.1
    label_dropout: float = 0.1
    dtype: Dtype = "float32"

    objective: ClassVar[str] = "concept_prediction"

    def setup(self):
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} does not split into {self.num_heads} heads")
        self.class_embed = ClassEmbedding(self.num_classes, self.width, self.label_dropout)
        self.concept_embed = dense(self.width, dtype=self.dtype, kernel_init=normal_init)
        shape = (self.num_tokens, self.width)
        self.position_embed = self.param("position_embed", normal_init, shape)
        shape = (self.num_kept, self.width)
        self.condition_embed = self.param("condition_embed", normal_init, shape)
        self.norm_in = rms_norm()
        self.drop = nn.Dropout(self.dropout)
        hidden = hidden_width(self.width)
        self.blocks = Block(self.num_heads, hidden, False, self.dropout, self.dtype)
        self.norm = rms_norm()
        self.head = DiffusionMLP(
            self.process.output_channels(self.concept_dim),
            self.head_width,
            self.head_depth,
            self.head_conditioning,
            self.dtype,
        )

    @property
    def num_tokens(self) -> int:
        """Of the class and the concepts."""
        return self.num_class_tokens + self.num_kept

    def __call__(
        self,
        concepts: Float[Array, "B S D"],
        labels: Int[Array, " B"],
        x_t: Float[Array, "M D"],
        t: Num[Array, " M"],
        *,
        train: bool = False,
    ) -> Float[Array, "M c"]:
        """The head's predictions at `x_t`, M = n B S: n draws for each concept, batch after batch.

        `t` is the process's own. `train` draws from "dropout" and "label_dropout".
        """
        conditions = self.conditions(self.hidden(concepts, labels, train=train))
        draws = len(x_t) // (conditions.shape[0] * conditions.shape[1])
        conditions = repeat(conditions, "b s d -> (n b s) d", n=draws)
        return self.denoise(x_t, t, conditions)

    def hidden(
        self, concepts: Float[Array, "B S D"], labels: Int[Array, " B"], *, train: bool = False
    ) -> Float[Array, "B N W"]:
        """States of class tokens and concepts after the last norm, each given those before it."""
        classes = self.class_embed(labels, train=train)[:, None]
        classes = jnp.repeat(classes, self.num_class_tokens, axis=1)
        x = jnp.concatenate([classes, self.concept_embed(concepts).astype(jnp.float32)], axis=1)
        x = self.norm_in(split_batch(x + self.position_embed[: x.shape[1]]))
        x = self.drop(x, deterministic=not train)
        return self.norm(run_blocks(self.blocks, x, self.depth, train=train))

    def conditions(self, hidden: Float[Array, "B N W"]) -> Float[Array, "B S W"]:
        """What the head is given for each concept: the state of the token before it."""
        return hidden[:, self.num_class_tokens - 1 : -1] + self.condition_embed

    def denoise(
        self, x_t: Float[Array, "N D"], t: Num[Array, " N"], conditions: Float[Array, "N W"]
    ) -> Float[Array, "N c"]:
        """The head's prediction for the process."""
        return self.head(x_t, self.process.network_time(t), conditions)

    def begin(self, labels: Int[Array, " B"]) -> tuple[Float[Array, "B W"], Cache]:
        """(the first concept's condition, cache)."""
        cache = empty_cache(
            labels,
            self.depth,
            self.num_heads,
            self.num_tokens,
            self.width // self.num_heads,
            self.dtype,
        )
        x = jnp.repeat(self.class_embed(labels)[:, None], self.num_class_tokens, axis=1)
        x = self.norm_in(x + self.position_embed[: self.num_class_tokens])
        x, cache = step_blocks(self.blocks, x, cache, jnp.int32(0), self.depth)
        return self.norm(x[:, -1]) + self.condition_embed[0], cache

    def step(
        self, concepts: Float[Array, "B D"], cache: Cache, number: Int[Array, ""]
    ) -> tuple[Float[Array, "B W"], Cache]:
        """(the condition of concept `number` + 1, cache) from concept `number`."""
        token = number + self.num_class_tokens
        x = self.concept_embed(concepts).astype(jnp.float32)[:, None]
        place = jax.lax.dynamic_slice_in_dim(self.position_embed, token, 1)
        x, cache = step_blocks(self.blocks, self.norm_in(x + place), cache, token, self.depth)
        # After the last concept there is none to condition: its own row stands in.
        following = jnp.minimum(number + 1, self.num_kept - 1)
        embed = jax.lax.dynamic_index_in_dim(self.condition_embed, following, keepdims=False)
        return self.norm(x[:, 0]) + embed, cache
