"""Softmax attention whose backward pass needs its result and one number a row, not its weights.

Dao et al., FlashAttention (2022), algorithm 4, without its tiles: weights are computed again from
queries and keys. Derived by JAX, the backward pass would also compute the result again.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from vqlab.nn.layers import precision_of

# The name, for policies of jax.checkpoint, of what the backward pass needs.
RESIDUALS = "attention"


@jax.custom_vjp
def attend(
    q: Float[Array, "B M N D"],
    k: Float[Array, "B M K D"],
    v: Float[Array, "B M K D"],
    mask: Bool[Array, "N K"] | None = None,
) -> Float[Array, "B N M*D"]:
    """softmax(q k^T / sqrt(D)) v of M heads, joined; the softmax is float32, the rest q's dtype.

    `mask` is True where query row n sees key column k, at least one in each row; None: everywhere.
    Heads come before tokens: on CPUs jax.nn.dot_product_attention, which has them after, takes a
    fifth longer forward and backward.
    """
    return _forward(q, k, v, mask)[0]


def attend_causally(
    q: Float[Array, "B M N D"], k: Float[Array, "B M N D"], v: Float[Array, "B M N D"], start: int
) -> Float[Array, "B N M*D"]:
    """`attend` in which the first `start` tokens see each other and the rest no later token.

    Two calls: one masked call would also compute what the first tokens do not see.
    """
    first = attend(*(x[:, :, :start] for x in (q, k, v)))
    num_tokens = q.shape[2]
    mask = jnp.tri(num_tokens - start, num_tokens, start, dtype=bool)
    return jnp.concatenate([first, attend(q[:, :, start:], k, v, mask)], axis=1)


def _forward(q, k, v, mask):
    scale = q.shape[-1] ** -0.5
    logits = _logits(q, k, mask)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp((logits - largest) * scale)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product: [N, D] is smaller than [N, K].
    x = _product(q.dtype, "bmnk,bmkd->bmnd", weights, v) / total
    x = checkpoint_name(rearrange(x, "b m n d -> b n (m d)").astype(q.dtype), RESIDUALS)
    log_total = checkpoint_name((largest * scale + jnp.log(total))[..., 0], RESIDUALS)
    return x, (q, k, v, mask, x, log_total)


def _backward(residuals, g):
    """Gradients of q, k and v for that of the result, g [B, N, M*D]."""
    q, k, v, mask, x, log_total = residuals
    scale = q.shape[-1] ** -0.5
    product = functools.partial(_product, q.dtype)
    heads = functools.partial(rearrange, pattern="b n (m d) -> b m n d", m=q.shape[1])
    mean = jnp.sum(heads(g.astype(jnp.float32) * x), axis=-1, keepdims=True)
    g = heads(g)
    weights = jnp.exp(_logits(q, k, mask) * scale - log_total[..., None])
    dlogits = weights * (product("bmnd,bmkd->bmnk", g, v) - mean) * scale
    # The narrow operand first: on CPUs a quarter faster.
    dv = product("bmnd,bmnk->bmkd", g, weights)
    dk = product("bmnd,bmnk->bmkd", q, dlogits)
    dq = product("bmnk,bmkd->bmnd", dlogits, k)
    return *(x.astype(q.dtype) for x in (dq, dk, dv)), None


attend.defvjp(_forward, _backward)


def _logits(q: Array, k: Array, mask: Array | None) -> Float[Array, "B M N K"]:
    logits = _product(q.dtype, "bmnd,bmkd->bmnk", q, k)
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def _product(dtype: Dtype, equation: str, x: Array, y: Array) -> Array:
    """einsum of operands in `dtype` with a float32 result."""
    return jnp.einsum(
        equation,
        x.astype(dtype),
        y.astype(dtype),
        precision=precision_of(dtype),
        preferred_element_type=jnp.float32,
    )
