"""ReLU linear attention (EfficientViT, section 3.1): DC-AE's LiteMLA without its other scales."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.nn.layers import FLOAT32, conv, norm

HEAD_DIM = 32
EPS = 1e-15


def relu_attention(
    q: Float[Array, "B N M D"], k: Float[Array, "B N M D"], v: Float[Array, "B N M D"]
) -> Float[Array, "B N M D"]:
    """sum_j (q_i . k_j) v_j / (sum_j q_i . k_j + 1e-15) over tokens j, after a ReLU on q and k.

    [B,N,M,D] float32, N tokens of M heads. The sum over tokens runs first (linear in N), unless
    there are at most D tokens, where the N x N weights are the smaller product.
    """
    einsum = functools.partial(jnp.einsum, precision=FLOAT32)
    q, k = jax.nn.relu(q), jax.nn.relu(k)
    if q.shape[1] > q.shape[-1]:
        keys_values = einsum("bnmd,bnme->bmde", k, v)
        weighted = einsum("bnmd,bmde->bnme", q, keys_values)
        total = einsum("bnmd,bmd->bnm", q, k.sum(axis=1))
        return weighted / (total[..., None] + EPS)
    weights = einsum("bnmd,bjmd->bmnj", q, k)
    weights = weights / (weights.sum(axis=-1, keepdims=True) + EPS)
    return einsum("bmnj,bjmd->bnmd", weights, v)


class LinearAttention(nn.Module):
    """1x1 conv to q, k, v of 32-wide heads, ReLU attention over all positions, 1x1 conv and norm.

    [B,h,w,C] -> [B,h,w,C] in `dtype`, without the residual; the attention itself is float32.
    Raises ValueError when C is no multiple of 32.
    """

    norm: str
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w C"]:
        height, width, features = x.shape[1:]
        if features % HEAD_DIM:
            raise ValueError(f"{features} channels do not split into heads of {HEAD_DIM}")
        qkv = conv(3 * features, 1, use_bias=False, dtype=self.dtype, name="qkv")(x)
        q, k, v = rearrange(  # every head holds its own q, k, v side by side
            qkv.astype(jnp.float32), "b h w (m three d) -> three b (h w) m d", three=3, d=HEAD_DIM
        )
        out = rearrange(relu_attention(q, k, v), "b (h w) m d -> b h w (m d)", h=height, w=width)
        out = conv(features, 1, use_bias=False, dtype=self.dtype, name="proj")(out)
        return norm(self.norm)(dtype=self.dtype, name="norm")(out, train=train)
