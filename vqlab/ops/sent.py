"""Tokens that are sent: the others count in no mean, and nothing is drawn from them.

Behind a random cut the decoder reads nulls in the place of tokens, so what they were says nothing
of the code. A mask of None stands for all tokens, which are then computed as without any.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def mean(
    values: Float[Array, "..."], sent: Bool[Array, "..."] | None, axis: int | Sequence[int] = 0
) -> Array:
    """Over `axis` where `sent`, which has the axes of `values` in front, is true; 0 of none."""
    if sent is None:
        return jnp.mean(values, axis)
    sent = jnp.expand_dims(sent, tuple(range(sent.ndim, values.ndim)))
    sent = jnp.broadcast_to(sent, values.shape)
    count = jnp.maximum(jnp.sum(sent, axis), 1)
    return jnp.sum(jnp.where(sent, values, 0.0), axis) / count


def places(sent: Bool[Array, " N"]) -> tuple[Int[Array, " N"], Int[Array, ""]]:
    """(numbers of the sent tokens, growing, then zeros; how many, 1 at least)."""
    numbers = jnp.nonzero(sent, size=len(sent), fill_value=0)[0].astype(jnp.int32)
    return numbers, jnp.maximum(jnp.sum(sent), 1)
