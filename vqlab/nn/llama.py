"""The transformer block of LlamaGen, whole or one token at a time with a cache of keys and values.

gpt.py of FoundationVision/LlamaGen, which both papers' second stages build on, and the blocks of
MGVQ's small head: RMS norms, no biases, SwiGLU.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from vqlab.nn.layers import precision_of
from vqlab.nn.softmax_attention import attend
from vqlab.nn.transformer import scan_blocks
from vqlab.ops.matmul import matmul
from vqlab.ops.mesh import rearrange, split_tensor
from vqlab.ops.position import rotate

NORM_EPS = 1e-5
HIDDEN_MULTIPLE = 256

# Keys and values of all layers, each [B, L, M, N, D]: L layers, M heads, N tokens of D channels.
Cache = tuple[Array, Array]

normal_init = nn.initializers.normal(0.02)


def linear(features: int, *, dtype: Dtype = "float32", name: str | None = None) -> nn.Dense:
    """A linear layer without bias, [..., C] -> [..., features]; float32 parameters."""
    return nn.Dense(
        features,
        use_bias=False,
        dtype=dtype,
        precision=precision_of(dtype),
        kernel_init=normal_init,
        dot_general=lambda x, kernel, _, precision: matmul(x, kernel, precision),
        name=name,
    )


def rms_norm(*, name: str | None = None) -> nn.RMSNorm:
    """x / sqrt(mean_C(x^2) + 1e-5) * scale in float32: [..., C] -> [..., C] float32."""
    return nn.RMSNorm(epsilon=NORM_EPS, dtype="float32", name=name)


def hidden_width(width: int) -> int:
    """Of SwiGLU in LlamaGen: 8 / 3 of `width`, rounded up to a multiple of 256."""
    return -(-int(8 * width / 3) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE


class SwiGLU(nn.Module):
    """(silu(x w1) * (x w3)) w2: [B,N,C] -> [B,N,C] in `dtype`, `hidden` wide inside."""

    hidden: int
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        gate = linear(self.hidden, dtype=self.dtype, name="w1")(x)
        value = linear(self.hidden, dtype=self.dtype, name="w3")(x)
        hidden = split_tensor(jax.nn.silu(gate) * value, -1, "hidden features")
        return linear(x.shape[-1], dtype=self.dtype, name="w2")(hidden)


class CausalAttention(nn.Module):
    """Causal softmax attention: [B,N,C] -> [B,N,C] in `dtype`; for the attributes see `Block`."""

    num_heads: int
    normed: bool
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N C"],
        table: Float[Array, "N pairs 2"] | None,
        cache: Cache | None = None,
        layer: Int[Array, ""] | None = None,
        position: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B N C"], Cache | None]:
        """With a cache, the N tokens stand at `position`..., see those before, and join it."""
        width = x.shape[-1]
        qkv = linear(3 * width, dtype=self.dtype, name="qkv")(x)
        heads = (
            rearrange(x, "b n (m d) -> b m n d", m=self.num_heads) for x in jnp.split(qkv, 3, -1)
        )
        q, k, v = (split_tensor(x, 1, "heads") for x in heads)
        if self.normed:
            q = rms_norm(name="q_norm")(q).astype(self.dtype)
            k = rms_norm(name="k_norm")(k).astype(self.dtype)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        start = 0
        if cache is not None:
            start = position
            cache = tuple(
                jax.lax.dynamic_update_slice(
                    old, new[:, None].astype(old.dtype), (0, layer, 0, position, 0)
                )
                for old, new in zip(cache, (k, v), strict=True)
            )
            k, v = (jax.lax.dynamic_index_in_dim(x, layer, 1, keepdims=False) for x in cache)
        rows = start + jnp.arange(q.shape[2])
        seen = jnp.arange(k.shape[2]) <= rows[:, None]
        x = attend(q, k.astype(q.dtype), v.astype(q.dtype), seen)
        return linear(width, dtype=self.dtype, name="proj")(x), cache


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)): [B,N,C] -> [B,N,C].

    Branches are in `dtype`, x keeps its own.

    Attributes:
      num_heads: M.
      hidden: width inside SwiGLU.
      normed: RMS norms of queries and keys, as in MGVQ's head.
      dropout: share of the numbers of both branches that training leaves out, drawn from the
        stream "dropout".
    """

    num_heads: int
    hidden: int
    normed: bool = False
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N C"],
        table: Float[Array, "N pairs 2"] | None = None,
        cache: Cache | None = None,
        layer: Int[Array, ""] | None = None,
        position: Int[Array, ""] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B N C"], Cache | None]:
        """(x, cache) of one layer; see `CausalAttention` for what the cache needs."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = rms_norm(name="norm1")(x).astype(self.dtype)
        attention = CausalAttention(self.num_heads, self.normed, self.dtype, name="attention")
        y, cache = attention(y, table, cache, layer, position)
        x = x + drop(y).astype(x.dtype)
        y = rms_norm(name="norm2")(x).astype(self.dtype)
        y = SwiGLU(self.hidden, self.dtype, name="mlp")(y)
        return x + drop(y).astype(x.dtype), cache


def run_blocks(
    block: nn.Module, x: Array, depth: int, table: Array | None = None, *, train: bool = False
) -> Float[Array, "B N C"]:
    """x [B,N,C] after `depth` layers, all tokens at once."""
    return scan_blocks(block, lambda block, x, _: block(x, table, train=train)[0], x, None, depth)


def step_blocks(
    block: nn.Module,
    x: Array,
    cache: Cache,
    position: Int[Array, ""],
    depth: int,
    table: Array | None = None,
) -> tuple[Float[Array, "B N C"], Cache]:
    """(x, cache) after `depth` layers for the tokens x [B,N,C] at `position`...

    `table` is that of these tokens.
    """

    def step(block, carry, layer):
        x, cache = carry
        return block(x, table, cache, layer, position)

    return scan_blocks(block, step, (x, cache), jnp.arange(depth), depth)


def empty_cache(
    rows: Array, depth: int, num_heads: int, num_tokens: int, head_dim: int, dtype: Dtype
) -> Cache:
    """Zeros for `num_tokens` tokens of each of the `rows` [B, ...], whatever they hold."""
    shape = (rows.shape[0], depth, num_heads, num_tokens, head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
