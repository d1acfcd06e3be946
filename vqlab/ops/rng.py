"""Named random streams from one key."""

from __future__ import annotations

import jax


def streams(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """One independent key per name, in the form that Linen's `apply(..., rngs=)` takes."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
