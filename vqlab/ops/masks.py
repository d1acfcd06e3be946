"""Nested masking of groups: which groups of a sample the decoder sees while training.

One uniform number r decides for all groups at once: group i is masked when r < p_i. With p_0 = 0
and p non-decreasing, masking group i masks every group after it too, so that the first groups learn
to carry the coarse picture (MGVQ, nested masking; published for four groups: 0, 0.2, 0.3, 0.4).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def check_mask_probs(mask_probs: Sequence[float], num_groups: int) -> None:
    """Raise ValueError unless `mask_probs` is empty (no masking) or nested over G groups."""
    if not mask_probs:
        return
    shown = tuple(mask_probs)
    if len(shown) != num_groups:
        raise ValueError(f"mask_probs {shown} has {len(shown)} entries for {num_groups} groups")
    if shown[0] != 0:
        raise ValueError(f"mask_probs {shown} must start with 0: the first group is never masked")
    if any(not 0 <= p <= 1 for p in shown):
        raise ValueError(f"mask_probs {shown} must lie in [0, 1]")
    if any(after < before for before, after in zip(shown, shown[1:], strict=False)):
        raise ValueError(f"mask_probs {shown} must not decrease, or the masks are not nested")


def spread_mask_probs(mask_range: Sequence[float], num_groups: int) -> tuple[float, ...]:
    """G probabilities: 0 for the first group, then evenly from `mask_range[0]` to `mask_range[1]`.

    (0.2, 0.4) gives the published list for 4 groups, and one in its spirit for any other number.
    """
    if not mask_range:
        return ()
    if len(mask_range) != 2:
        raise ValueError(f"mask_range {tuple(mask_range)} must be () or two probabilities")
    first, last = mask_range
    steps = max(num_groups - 2, 1)
    return (0.0, *(first + (last - first) * i / steps for i in range(num_groups - 1)))


def nested_keep(r: Float[Array, " B"], mask_probs: Sequence[float]) -> Bool[Array, "B G"]:
    """True where group i of a sample is kept: r >= p_i, for r in [0, 1)."""
    return r[:, None] >= jnp.asarray(mask_probs, jnp.float32)


def draw_keep(
    key: jax.Array, mask_probs: Sequence[float], batch: int, *, per_sample: bool = False
) -> Bool[Array, "B G"]:
    """Draw which groups are kept: one r for the batch as published, or one for each sample."""
    r = jax.random.uniform(key, (batch if per_sample else 1,))
    return nested_keep(jnp.broadcast_to(r, (batch,)), mask_probs)
