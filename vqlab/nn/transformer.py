"""Pre-norm transformer blocks (timm's vision_transformer.py), and their stacking by one scan.

Depth is a scan over stacked parameters [L, ...]: one block is compiled whatever the depth.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from vqlab.nn.layers import precision_of
from vqlab.nn.softmax_attention import RESIDUALS, attend, attend_causally
from vqlab.ops.matmul import matmul
from vqlab.ops.mesh import rearrange, split_batch, split_tensor

LAYER_NORM_EPS = 1e-6

# What vision transformers start from; the released code cuts the normal at 100 deviations.
vit_init = nn.initializers.normal(0.02)
xavier_init = nn.initializers.xavier_uniform()


def dense(
    features: int,
    *,
    dtype: Dtype = "float32",
    kernel_init: Initializer = xavier_init,
    name: str | None = None,
) -> nn.Dense:
    """A linear layer with bias, [..., C] -> [..., features]; float32 parameters.

    With dtype float32 its products are float32 on every device.
    """
    return nn.Dense(
        features,
        dtype=dtype,
        precision=precision_of(dtype),
        kernel_init=kernel_init,
        dot_general=_dot,
        name=name,
    )


def _dot(x: Array, kernel: Array, _: Any, precision: Any) -> Array:
    """What nn.Dense calls instead of jax.lax.dot_general."""
    return matmul(x, kernel, precision)


def layer_norm(
    *, affine: bool = True, eps: float = LAYER_NORM_EPS, name: str | None = None
) -> nn.LayerNorm:
    """Layer norm over the last axis, in float32: [..., C] -> [..., C] float32."""
    return nn.LayerNorm(
        epsilon=eps,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        dtype="float32",
        name=name,
    )


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel size, as one matrix product of flat patches.

    [B,H,W,C] -> [B,H/p,W/p,features] in `dtype`. The kernel has a convolution's shape
    [p,p,C,features].
    """

    features: int
    patch_size: int
    kernel_init: Initializer
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w features"]:
        p = self.patch_size
        kernel = self.param("kernel", self.kernel_init, (p, p, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        patches = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=p, q=p).astype(self.dtype)
        kernel = rearrange(kernel, "p q c d -> (p q c) d").astype(self.dtype)
        product = jnp.dot(patches, kernel, precision=precision_of(self.dtype))
        return product + bias.astype(self.dtype)


class SelfAttention(nn.Module):
    """Softmax attention of `num_heads` heads with one projection to q, k, v, all with bias.

    [B,N,D] -> [B,N,D] in `dtype`; the softmax is float32.

    Attributes:
      causal_from: tokens from this one on see no later one and those before it see none of them;
        None: every token sees every other.
    """

    num_heads: int
    kernel_init: Initializer = xavier_init
    dtype: Dtype = "float32"
    causal_from: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        qkv = dense(3 * width, dtype=self.dtype, kernel_init=self.kernel_init, name="qkv")(x)
        heads = (
            rearrange(x, "b n (m d) -> b m n d", m=self.num_heads) for x in jnp.split(qkv, 3, -1)
        )
        q, k, v = (split_tensor(x, 1, "heads") for x in heads)
        causal = self.causal_from is not None
        x = attend_causally(q, k, v, self.causal_from) if causal else attend(q, k, v)
        return dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name="proj")(x)


class MLP(nn.Module):
    """Linear, GELU, linear: [B,N,D] -> [B,N,D] in `dtype`, `hidden` wide inside.

    Attributes:
      approximate: the tanh form of GELU instead of the exact one.
    """

    hidden: int
    approximate: bool
    kernel_init: Initializer = xavier_init
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        x = dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="fc1")(x)
        x = jax.nn.gelu(split_tensor(x, -1, "hidden features"), approximate=self.approximate)
        return dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name="fc2")(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with exact GELU: [B,N,D] -> [B,N,D].

    Branches are in `dtype`; x, to which they add, keeps its own, float32 in the released code under
    autocast.

    `drop_rate`, a scalar, is the probability that a branch is left out for a sample, drawn from the
    stream "drop_path" (stochastic depth); None: both are always there. For `causal_from` see
    `SelfAttention`; `norm_eps` is of both norms.
    """

    num_heads: int
    mlp_ratio: float = 4.0
    dtype: Dtype = "float32"
    causal_from: int | None = None
    norm_eps: float = LAYER_NORM_EPS
    kernel_init: Initializer = vit_init

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], drop_rate: Float[Array, ""] | None = None
    ) -> Float[Array, "B N D"]:
        hidden = int(x.shape[-1] * self.mlp_ratio)
        attention = SelfAttention(
            self.num_heads, self.kernel_init, self.dtype, self.causal_from, name="attention"
        )
        mlp = MLP(hidden, False, self.kernel_init, self.dtype, name="mlp")
        y = layer_norm(eps=self.norm_eps, name="norm1")(x).astype(self.dtype)
        x = x + self._drop(attention(y), drop_rate)
        y = layer_norm(eps=self.norm_eps, name="norm2")(x).astype(self.dtype)
        return x + self._drop(mlp(y), drop_rate)

    def _drop(self, branch: Array, rate: Array | None) -> Array:
        """`branch` scaled by 1 / (1 - rate) for the samples that keep it, zeros for the others."""
        if rate is None:
            return branch
        keep = jax.random.bernoulli(self.make_rng("drop_path"), 1 - rate, (branch.shape[0], 1, 1))
        return branch * (keep / (1 - rate)).astype(branch.dtype)


def scan_blocks(
    block: nn.Module,
    step: Callable[[nn.Module, Any, Any], Any],
    carry: Any,
    per_layer: Any,
    depth: int,
) -> Any:
    """Runs `carry = step(block, carry, per_layer[i])` for i in 0..depth-1 and returns the last.

    Args:
      block: one block, not yet called; its parameters become [L, ...], with L = `depth`.
      step: calls the block once.
      carry: arrays whose shapes the step keeps.
      per_layer: arrays [L, ...], or None.
    """

    def body(module, carry, inputs):
        return step(module, jax.tree.map(split_batch, carry), inputs), None

    scan = nn.scan(
        body,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "drop_path": True, "dropout": True},
        length=depth,
    )
    carry, _ = scan(block, carry, per_layer)
    return jax.tree.map(split_batch, carry)


def recomputed(block_class: type[nn.Module], *, everything: bool) -> type[nn.Module]:
    """`block_class` for `scan_blocks`, storing less for the backward pass.

    With `everything` only its input is stored and the rest is computed again. Without, products
    with parameters and results of attention are stored too, and what is computed again costs a few
    per cent of a step: norms, activations and attention weights. On CPUs even that is faster than
    storing them.
    """
    policies = jax.checkpoint_policies
    policy = None
    if not everything:
        policy = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(RESIDUALS)
        )
    return nn.remat(block_class, policy=policy, prevent_cse=False)
