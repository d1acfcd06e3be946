"""What a bottleneck adds to its network's loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vqlab.nn.quantized import Quantized


def quantizer_loss(
    quantized: Quantized, reduce: Callable[[jax.Array], jax.Array] = jnp.mean
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(sum of its losses, each reduced over the groups; these losses and its statistics)."""
    terms = {name: reduce(values) for name, values in quantized.losses.items()}
    return sum(terms.values(), jnp.float32(0.0)), terms | quantized.stats
