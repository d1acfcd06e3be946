"""The head that denoises one continuous token at a time, given a vector (MAR's diffloss.py).

Semanticist, appendix C.2; class SimpleMLPAdaLN of the released code. The loss and the sampler are
those of any `vqlab.diffusion` process.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Num

from vqlab.nn.transformer import dense, layer_norm
from vqlab.ops.mesh import split_batch
from vqlab.ops.position import time_features

CONDITIONINGS = ("concat", "adaln")
TIME_FEATURES = 256

normal_init = nn.initializers.normal(0.02)
zeros_init = nn.initializers.zeros


class ResidualBlock(nn.Module):
    """x + gate * MLP([norm(x) (1 + scale) + shift, beside]); all three from `modulation`.

    x [B,C], modulation [B,C], beside [B,C] or None -> [B,C] in `dtype`. Gates start at zero, and
    the block as the identity.
    """

    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B C"],
        modulation: Float[Array, "B C"],
        beside: Float[Array, "B C"] | None,
    ) -> Float[Array, "B C"]:
        width = x.shape[-1]
        shift, scale, gate = _modulation(modulation, 3, self.dtype)
        y = layer_norm(name="norm")(x) * (1 + scale) + shift
        y = _join(y.astype(self.dtype), beside)
        y = jax.nn.silu(dense(width, dtype=self.dtype, name="fc1")(y))
        return x + gate * dense(width, dtype=self.dtype, name="fc2")(y)


class DiffusionMLP(nn.Module):
    """Noisy token, time and condition -> prediction of a diffusion process.

    Attributes:
      out_channels: the process's `output_channels` of the token's channels.
      width, depth: of the residual blocks; 1536 and 12 as published.
      conditioning: how the condition enters, time always modulating the norms: "adaln" adds it to
        the time embedding, "concat" puts it beside the input of every block and of the last layer.
      dtype: of the activations; parameters are float32.
    """

    out_channels: int
    width: int
    depth: int
    conditioning: str = "concat"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x_t: Float[Array, "B C"], t: Num[Array, " B"], condition: Float[Array, "B D"]
    ) -> Float[Array, "B out_channels"]:
        """[B, out_channels] float32; `t` as the process's `network_time` gives it."""
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(
                f"unknown conditioning {self.conditioning!r}; choose from {list(CONDITIONINGS)}"
            )
        modulation = self._time(t)
        condition = dense(self.width, dtype=self.dtype, name="condition_embed")(condition)
        beside = condition
        if self.conditioning == "adaln":
            modulation, beside = modulation + condition, None
        x = dense(self.width, dtype=self.dtype, name="token_embed")(x_t)
        for i in range(self.depth):
            block = ResidualBlock(self.dtype, name=f"block{i}")
            x = block(split_batch(x), modulation, beside)
        shift, scale = _modulation(modulation, 2, self.dtype)
        x = layer_norm(affine=False)(x) * (1 + scale) + shift
        # The last layer is float32: predictions are compared in float32.
        return dense(self.out_channels, kernel_init=zeros_init, name="final_linear")(
            _join(x, beside)
        )

    def _time(self, t: Array) -> Float[Array, "B C"]:
        x = time_features(t.astype(jnp.float32), TIME_FEATURES)
        x = dense(self.width, dtype=self.dtype, kernel_init=normal_init, name="time_fc1")(x)
        return dense(self.width, dtype=self.dtype, kernel_init=normal_init, name="time_fc2")(
            jax.nn.silu(x)
        )


def _modulation(x: Array, parts: int, dtype: Dtype) -> list[Array]:
    """`parts` arrays [B,C] from a linear layer, "modulation" of the calling module; 0 at first."""
    layer = dense(parts * x.shape[-1], dtype=dtype, kernel_init=zeros_init, name="modulation")
    return jnp.split(layer(jax.nn.silu(x)), parts, axis=-1)


def _join(x: Array, beside: Array | None) -> Array:
    return x if beside is None else jnp.concatenate([x, beside.astype(x.dtype)], axis=-1)
