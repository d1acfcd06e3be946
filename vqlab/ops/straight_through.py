"""Gradients that pass a quantizer: straight through it, or rotated as its output was.

Both give the codeword itself, bit for bit, and differ in what an encoder learns from it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.ops.codebook import l2_normalize

EPSILON = 1e-6  # below it a norm is not divided by


def straight_through(
    token: Float[Array, "*dims D"], codeword: Float[Array, "*dims D"]
) -> Float[Array, "*dims D"]:
    """`codeword`, with the gradient of `token`."""
    return jax.lax.stop_gradient(codeword) + (token - jax.lax.stop_gradient(token))


def rotated_through(
    token: Float[Array, "*dims D"], codeword: Float[Array, "*dims D"]
) -> Float[Array, "*dims D"]:
    """`codeword`, with the gradient of the rotation and scaling that carries `token` onto it.

    The rotation is a constant to the gradient (Fifty et al. 2024, "Restructuring Vector
    Quantization with the Rotation Trick", section 4.2). vector-quantize-pytorch returns the rotated
    token, which equals the codeword to rounding.
    """
    from_unit, to_unit, half_way, stretch = jax.lax.stop_gradient(_rotation(token, codeword))

    def along(unit):
        return jnp.sum(token * unit, -1, keepdims=True)

    rotated = token - 2 * along(half_way) * half_way + 2 * along(from_unit) * to_unit
    return straight_through(rotated * stretch, codeword)


def _rotation(token, codeword):
    """The unit vectors of both and of their sum, and the ratio of their norms."""
    norms = [jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (token, codeword)]
    from_unit, to_unit = (
        x / jnp.maximum(norm, EPSILON) for x, norm in zip((token, codeword), norms, strict=True)
    )
    half_way = l2_normalize(from_unit + to_unit, EPSILON)
    return from_unit, to_unit, half_way, norms[1] / jnp.maximum(norms[0], EPSILON)
