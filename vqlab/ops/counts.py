"""The check of numbers that say how many: groups, concepts, steps."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

# jax.random.key keeps 32 bits of a seed and drops the others without a word.
MAX_SEED = 2**32 - 1


def check_whole(name: str, value: Any, choices: str = "") -> int:
    """`value` as an int: a Python, NumPy or JAX integer, but no bool; ValueError names it."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        ending = f": {choices}" if choices else ""
        raise ValueError(f"{name}={_shown(value)} is no whole number{ending}") from None


def check_count(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """`value`, which has to be a whole number in lowest..highest; ValueError names it and them."""
    bounds = f"choose {lowest}..{highest}" if highest is not None else f"at least {lowest}"
    count = check_whole(name, value, bounds)
    if count < lowest or (highest is not None and count > highest):
        raise ValueError(f"{name}={count} is out of range: {bounds}")
    return count


def check_kept(name: str, value: Any, total: int) -> int | jax.Array:
    """How many of `total` to keep: all for None, otherwise `value`, which lies in 0..total.

    A number that a jitted program is given has no value yet: it is taken as it is.
    """
    if isinstance(value, jax.core.Tracer) and not value.ndim and _is_integer(value):
        return value
    return total if value is None else check_count(name, value, 0, total)


def check_seed(value: Any, name: str = "seed") -> int:
    """A seed, a whole number of 32 bits; ValueError names it."""
    return check_count(name, value, 0, MAX_SEED)


def _is_integer(value: jax.Array) -> bool:
    return jnp.issubdtype(value.dtype, jnp.integer)


def _shown(value: Any) -> str:
    """`repr` on one line of bounded length: arrays have several."""
    return " ".join(repr(value).split())[:80]
