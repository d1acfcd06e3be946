"""How a code becomes bits: what a codec says of the ways in which its code can be sent.

A `Coding` is one way; the evaluator `rate_distortion` measures what it costs and what comes back.
Rates that a coding may have:

  fixed    every symbol at its own fixed length
  entropy  every symbol by an ideal static code, made for the data that are sent
  kl       the posterior's divergence from the prior, which bits-back coding reaches in the ideal
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Sent(NamedTuple):
    """Images in a coding.

    code: [B, ...], what the codec's `decode` takes. symbols: [B, ..., S] int32, each of the S with
    a table, whatever lies between batch and symbols; None where there are none.
    bits: [B] float32 of what is no symbol; None where all is.
    """

    code: jax.Array
    symbols: jax.Array | None
    bits: jax.Array | None


class Coding(NamedTuple):
    """A way of sending a code.

    name: in metrics; ways that differ in their step alone share it. encode: (weights, prepared,
    key, step) -> `Sent`, can be jitted. step: of the quantization, in units of the code's spread; 0
    where nothing is quantized. symbol_bits: [S] at fixed length; () where there is none. tables:
    [S] number of each symbol's table, where several share one; () where each has its own.
    """

    name: str
    encode: Callable[[Any, Any, jax.Array, Any], Sent]
    step: float = 0.0
    symbol_bits: tuple[float, ...] = ()
    tables: tuple[int, ...] = ()


class Codings(NamedTuple):
    """All ways of sending a codec's code.

    prepare: (weights, images) -> what all of them start from, so that images are encoded once.
    ways: none where a continuous code is given no steps. spread: (weights, prepared) -> [B] mean
    square of the numbers of the code, whose root over the data is the unit of `step`; None where no
    way has steps.
    """

    prepare: Callable[[Any, jax.Array], Any]
    ways: tuple[Coding, ...]
    spread: Callable[[Any, Any], jax.Array] | None = None


def rounded(code: jax.Array, step: Any) -> Sent:
    """Numbers [B, ..., S] rounded to multiples of `step`."""
    symbols = jnp.round(code / step)
    return Sent(symbols * step, symbols.astype(jnp.int32), None)


def mean_square(code: jax.Array) -> jax.Array:
    """[B], of numbers [B, ...]."""
    return jnp.mean(jnp.square(code), axis=tuple(range(1, code.ndim)))
