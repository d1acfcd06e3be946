"""Norms, activations and convolutions with the conventions of PyTorch."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float

from vqlab.ops.convolution import conv3x3

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "silu": jax.nn.silu}

# PyTorch's default for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is Kaiming uniform
# with a = sqrt(5). Biases start at zero instead of PyTorch's equally wide draw.
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


# A TPU multiplies float32 arrays as bfloat16, and a GPU as TF32, unless told otherwise.
FLOAT32 = jax.lax.Precision.HIGHEST


def precision_of(dtype: Dtype) -> jax.lax.Precision | None:
    """What keeps products of arrays of `dtype` in it on every device."""
    return FLOAT32 if jnp.dtype(dtype) == jnp.float32 else None


def activation(name: str) -> Callable[[Array], Array]:
    """The activation called `name`; ValueError lists the choices."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose from {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def conv(
    features: int,
    kernel_size: int,
    *,
    use_bias: bool = True,
    dtype: Dtype = "float32",
    name: str | None = None,
) -> nn.Conv:
    """A stride-1 convolution padded with kernel_size // 2 zeros on every side; float32 parameters.

    With dtype float32 its products are float32 on every device. One of 3x3 has the gradients of
    `vqlab.ops.convolution`.

    Maps [B,H,W,C] to [B,H,W,features] for odd kernels.
    """
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        padding=kernel_size // 2,
        use_bias=use_bias,
        dtype=dtype,
        precision=precision_of(dtype),
        kernel_init=conv_init,
        conv_general_dilated_cls=_Conv3x3 if kernel_size == 3 else None,
        name=name,
    )


class _Conv3x3:
    """What `conv` hands to flax in place of jax.lax.conv_general_dilated."""

    def __call__(self, x, kernel, strides, padding, *, precision, **dimensions):
        del strides, padding, dimensions  # as `conv` sets them
        return conv3x3(x, kernel, precision)


class GroupedPointwise(nn.Module):
    """A 1x1 convolution that mixes channels only within each of `groups` groups, in float32.

    Written as a batched matrix product, since XLA's partitioner gives wrong results for a grouped
    convolution whose input it has split over channels. The kernel has a convolution's shape,
    [1, 1, C / groups, features].
    """

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w features"]:
        """Maps [B,h,w,C] to [B,h,w,features]."""
        shape = (1, 1, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", conv_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = rearrange(kernel, "1 1 i (g o) -> g i o", g=self.groups)
        x = rearrange(x.astype(jnp.float32), "b h w (g i) -> b h w g i", g=self.groups)
        y = jnp.einsum("bhwgi,gio->bhwgo", x, kernel, precision=FLOAT32)
        return rearrange(y, "b h w g o -> b h w (g o)") + bias


class DepthwiseConv(nn.Module):
    """3x3 convolution of every channel by itself, with bias and zero padding: [B,h,w,C] -> same.

    Written as nine shifted products, which fuse into one pass over the image. XLA's grouped
    convolution gives the same numbers 15 to 20 times slower on CPUs. Sums are float32.
    """

    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        height, width, features = x.shape[1:]
        kernel = self.param("kernel", conv_init, (3, 3, 1, features))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = bias
        for i in range(3):
            for j in range(3):
                shifted = padded[:, i : i + height, j : j + width]
                y = y + shifted.astype(jnp.float32) * kernel[i, j, 0]
        return y.astype(self.dtype)


class RMSNorm(nn.Module):
    """y = x / sqrt(mean_C(x^2) + eps) * scale + bias at every position, in float32 inside.

    No mean is subtracted; unlike most RMS norms it has a bias (DC-AE, TritonRMSNorm2d).
    """

    eps: float = 1e-5
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], *, train: bool = False) -> Float[Array, "... C"]:
        """[..., C] -> [..., C] in `dtype`; `train` makes no difference here."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    Collection "batch_stats" holds `mean` [C], `var` [C] and `count`, the number of training
    batches. PyTorch normalises with the biased variance but keeps the unbiased one, where
    flax.linen.BatchNorm keeps the biased. Under jit with a sharded batch the statistics are those
    of the global batch, because the means below are over the whole array.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], *, train: bool) -> Float[Array, "... C"]:
        """[..., C] -> [..., C] in `dtype`; `train` takes the batch's statistics and keeps them."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        x = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axis=axes)
            var = jnp.mean(jnp.square(x - mean), axis=axes)  # two passes: no cancellation
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                size = x.size // features
                unbiased = var * (size / max(size - 1, 1))
                running_mean.value += (1 - self.momentum) * (mean - running_mean.value)
                running_var.value += (1 - self.momentum) * (unbiased - running_var.value)
                count.value += 1
        else:
            mean, var = running_mean.value, running_var.value
        y = (x - mean) * jax.lax.rsqrt(var + self.eps)
        return (y * scale + bias).astype(self.dtype)


NORMS: dict[str, type[nn.Module]] = {"batch_norm": BatchNorm, "rms_norm": RMSNorm}


def norm(name: str) -> type[nn.Module]:
    """The norm class called `name`, used as norm(name)(dtype=...)(x, train=...)."""
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; choose from {sorted(NORMS)}")
    return NORMS[name]
