"""Nested guidance: how many of a sample's concepts the decoder sees while training.

The first n of S concepts are kept and the others are learned nulls, with another n for every
sample. The decoder then learns the image given any prefix, which puts what explains most into the
first concepts (Semanticist, section 4.3; diffuse_slot.py NestedSampler).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def keep_first(num_kept: Int[Array, " *B"], num_concepts: int) -> Bool[Array, "*B S"]:
    """True for the first `num_kept` of S concepts."""
    return jnp.arange(num_concepts) < num_kept[..., None]


def draw_num_kept(
    key: jax.Array,
    batch: int,
    num_concepts: int,
    *,
    is_nested: bool | Bool[Array, ""],
    condition_dropout: float,
    null_share: float,
) -> Int[Array, " B"]:
    """How many concepts each sample keeps, 0..S.

    Before nesting starts a sample keeps all S, or none with probability `condition_dropout`.
    After, it keeps n ~ U{1..S}, or none with probability `null_share`. The released code has
    null_share = 0: once nesting is on, the wholly unconditional case that guidance needs is not
    trained any more.
    """
    count_key, drop_key = jax.random.split(key)
    drawn = jax.random.randint(count_key, (batch,), 1, num_concepts + 1)
    kept = jnp.where(is_nested, drawn, num_concepts)
    dropped = jax.random.uniform(drop_key, (batch,)) < jnp.where(
        is_nested, null_share, condition_dropout
    )
    return jnp.where(dropped, 0, kept)
