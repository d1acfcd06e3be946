"""Codewords as running means of their tokens (van den Oord et al. 2017, appendix A.1).

For each codeword two running sums are kept: how many tokens chose it, and the sum of these tokens.
Their ratio is the codeword. Conventions are those of vector-quantize-pytorch's Codebook.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.ops.codebook import codeword_counts
from vqlab.ops.mesh import over_batch

SMOOTHING = 1e-5  # tokens that every codeword has beside its own


@over_batch
def codeword_sums(
    tokens: Float[Array, "N G D"], indices: Int[Array, "N G"], size: int, keep: Bool[Array, "N G"]
) -> Float[Array, "G K D"]:
    """The sum of the kept tokens that chose each of K=`size` codewords."""
    groups = jnp.arange(tokens.shape[1])
    zeros = jnp.zeros((tokens.shape[1], size, tokens.shape[2]), jnp.float32)
    return zeros.at[groups, indices].add(jnp.where(keep[..., None], tokens, 0.0))


def move(
    counts: Float[Array, "G K"],
    sums: Float[Array, "G K D"],
    tokens: Float[Array, "N G D"],
    indices: Int[Array, "N G"],
    keep: Bool[Array, "N G"],
    decay: float,
) -> tuple[Float[Array, "G K"], Float[Array, "G K D"]]:
    """Both running sums after a batch; groups without a kept token stay as they are.

    decay: the share of the old that is kept.
    """
    size = counts.shape[-1]
    is_used = jnp.any(keep, 0)[:, None]
    new_counts = codeword_counts(indices, size, keep)
    new_sums = codeword_sums(tokens, indices, size, keep)
    moved_counts = decay * counts + (1 - decay) * new_counts
    moved_sums = decay * sums + (1 - decay) * new_sums
    return (
        jnp.where(is_used, moved_counts, counts),
        jnp.where(is_used[..., None], moved_sums, sums),
    )


def smoothed(counts: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """The counts, with a little of their total spread evenly: none is zero, the total stays."""
    total = jnp.sum(counts, -1, keepdims=True)
    return (counts + SMOOTHING) / (total + counts.shape[-1] * SMOOTHING) * total


def means(counts: Float[Array, "G K"], sums: Float[Array, "G K D"]) -> Float[Array, "G K D"]:
    """The codewords."""
    return sums / smoothed(counts)[..., None]
