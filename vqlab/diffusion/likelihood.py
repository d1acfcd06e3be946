"""Terms of the variational bound between Gaussians, elementwise and in nats.

diffusion_utils.py of openai/guided-diffusion, as used by DiT and Semanticist.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SMALLEST_PROBABILITY = 1e-12


def normal_kl(
    mean: Float[Array, "..."],
    log_variance: Float[Array, "..."],
    other_mean: Float[Array, "..."],
    other_log_variance: Float[Array, "..."],
) -> Float[Array, "..."]:
    """KL(N(mean, exp(log_variance)) || N(other_mean, exp(other_log_variance)))."""
    return 0.5 * (
        -1.0
        + other_log_variance
        - log_variance
        + jnp.exp(log_variance - other_log_variance)
        + jnp.square(mean - other_mean) * jnp.exp(-other_log_variance)
    )


def discretized_log_likelihood(
    x: Float[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Log probability of the bin of `x` among the 256 values of 8-bit images in [-1, 1].

    The outermost bins reach to infinity (DDPM, eq. 13).
    """
    inverse = jnp.exp(-log_scale)
    below_upper = _normal_cdf(inverse * (x - mean + 1 / 255))
    below_lower = _normal_cdf(inverse * (x - mean - 1 / 255))
    probability = jnp.where(
        x < -0.999,
        below_upper,
        jnp.where(x > 0.999, 1 - below_lower, below_upper - below_lower),
    )
    return jnp.log(jnp.maximum(probability, SMALLEST_PROBABILITY))


def _normal_cdf(x: Array) -> Array:
    """The released code's approximation, not erf."""
    return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
