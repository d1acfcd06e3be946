"""A 3x3 convolution whose kernel's gradient suits CPUs; elsewhere it is XLA's own."""

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.ops.mesh import explicit_place, varying_as

DTYPES = ("float32", "bfloat16")
MIN_POSITIONS, MIN_CHANNELS, MIN_FEATURES = 64 * 64, 32, 65


def conv3x3(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "3 3 C F"],
    precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "B H W F"]:
    """The convolution of stride 1 with one zero on every side; x and kernel have one dtype.

    It can be differentiated backwards as often as one likes, and such a gradient also forwards. Of
    large convolutions themselves `jax.jvp` is not defined.
    """
    if not _is_large(x, kernel):
        return _plain(precision, x, kernel)
    kernel, x = varying_as(kernel, x), varying_as(x, kernel)
    return _conv(precision, x, kernel)


def _is_large(x: Array, kernel: Array) -> bool:
    """Whether nine products beat XLA's kernel gradient on CPUs, as measured on Zen 4.

    They are 1.1 to 5 times as fast then, and else mostly slower. XLA's falls behind where one
    vector of features does not do and where the inputs leave the cache.
    """
    height, width, (channels, features) = *x.shape[1:3], kernel.shape[2:]
    if x.dtype not in DTYPES or any(map(jax.export.is_symbolic_dim, (height, width))):
        return False
    is_large = height * width >= MIN_POSITIONS
    is_wide = channels >= MIN_CHANNELS and features >= MIN_FEATURES
    return is_large and is_wide and explicit_place(x) is None


def _plain(precision, x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


_conv = jax.custom_vjp(_plain, nondiff_argnums=(0,))


def _forward(precision, x, kernel):
    # XLA's convolution, not _conv: policies of jax.checkpoint look for it.
    return _plain(precision, x, kernel), (x, kernel)


def _backward(precision, residuals, g):
    x, kernel = residuals

    def of_xla(x, g):
        return jax.linear_transpose(lambda kernel: _plain(precision, x, kernel), kernel)(g)[0]

    def of_products(x, g):
        return _nine_products(precision, x, g)

    (dx,) = jax.linear_transpose(lambda x: _plain(precision, x, kernel), x)(g)
    return dx, jax.lax.platform_dependent(x, g, cpu=of_products, default=of_xla)


def _nine_products(precision, x, g):
    """The kernel's gradient: for each offset one product of g [B, H, W, F] with shifted inputs.

    XLA orders its program for speed, so what needs no g it computes long before, and keeps. Thus
    padding and shift stay inside the loop, and the loop starts from values that come after g.
    """
    features, channels = g.shape[-1], x.shape[-1]
    transposed = jax.lax.optimization_barrier(g.transpose(3, 0, 1, 2))

    def product(offset, products):
        inputs, offset = jax.lax.optimization_barrier((x, offset))
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = jax.lax.dynamic_slice(padded, (0, offset // 3, offset % 3, 0), x.shape)
        rows = (((1, 2, 3), (0, 1, 2)), ((), ()))
        value = jax.lax.dot_general(transposed, shifted, rows, precision)
        return jax.lax.dynamic_update_index_in_dim(products, value, offset, 0)

    start = jnp.full((9, features, channels), g[0, 0, 0, 0])
    products = jax.lax.fori_loop(0, 9, product, start)
    return products.reshape(3, 3, features, channels).swapaxes(2, 3)


_conv.defvjp(_forward, _backward)
