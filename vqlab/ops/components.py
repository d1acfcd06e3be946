"""Vectors in as many dimensions as are to be kept: principal components inside of a program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def keep_components(
    vectors: Float[Array, "*dims C"],
    among: Float[Array, "K C"],
    num_kept: int | Int[Array, ""],
) -> Float[Array, "*dims C"]:
    """Each vector's nearest point to it in the span of the first principal components of `among`.

    The span goes through the mean of `among`, which is what 0 components give; all C give the
    vectors back, up to rounding. float32.
    """
    vectors, among = vectors.astype(jnp.float32), among.astype(jnp.float32)
    mean = jnp.mean(among, 0)
    centred = among - mean
    exact = jax.lax.Precision.HIGHEST
    axes = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision=exact))[1][:, ::-1]
    scores = jnp.matmul(vectors - mean, axes, precision=exact)
    scores = jnp.where(jnp.arange(axes.shape[1]) < num_kept, scores, 0.0)
    return mean + jnp.matmul(scores, axes.T, precision=exact)
