"""From logits to the token that is drawn: temperature, top-k, top-p, greedy.

generate.py of FoundationVision/LlamaGen (top_k_top_p_filtering, sample), which MGVQ's second stage
uses. All settings may be traced values, so that another one compiles nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SMALLEST_TEMPERATURE = 1e-5

Number = float | int | Array


def filter_logits(
    logits: Float[Array, "*dims K"], temperature: Number, top_k: Number, top_p: Number
) -> Float[Array, "*dims K"]:
    """Logits divided by the temperature, -inf where a token may not be drawn, in float32.

    Args:
      logits: of K tokens.
      temperature: at least 0; below 1e-5 as 1e-5, which leaves the largest logit alone.
      top_k: how many of the largest logits stay, all of those that equal the last one too; 0 or K
        and more: all. (MGVQ's released script takes an exponent: its 12 is 4096 here, its 0 is 1.)
      top_p: then the fewest of the likeliest tokens whose probabilities exceed this; 1: all.
    """
    logits = logits.astype(jnp.float32) / jnp.maximum(temperature, SMALLEST_TEMPERATURE)
    is_cut = (jnp.asarray(top_k) > 0) | (jnp.asarray(top_p) < 1)
    # Sorting costs more than the rest of a small network's step.
    return jax.lax.cond(is_cut, lambda x: _top_p(_top_k(x, top_k), top_p), lambda x: x, logits)


def _top_k(logits: Array, top_k: Number) -> Array:
    size = logits.shape[-1]
    count = jnp.where(jnp.asarray(top_k) > 0, jnp.minimum(top_k, size), size)
    smallest = jnp.take(jnp.sort(logits, axis=-1), size - count, axis=-1)
    return jnp.where(logits < smallest[..., None], -jnp.inf, logits)


def _top_p(logits: Array, top_p: Number) -> Array:
    order = jnp.argsort(-logits, axis=-1)
    probs = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    # Of what stands before a token, so that the one which crosses the threshold stays.
    is_out = (before > top_p) & (jnp.asarray(top_p) < 1)
    is_out = is_out.at[..., 0].set(False)
    is_out = jnp.take_along_axis(is_out, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(is_out, -jnp.inf, logits)


def draw_token(
    keys: Array,
    logits: Float[Array, "B K"],
    temperature: Number,
    top_k: Number,
    top_p: Number,
) -> Int[Array, " B"]:
    """One token for each row, drawn with its own key [B]; temperature 0 or top_k 1 is greedy."""
    filtered = filter_logits(logits, temperature, top_k, top_p)
    drawn = jax.vmap(jax.random.categorical)(keys, filtered)
    is_greedy = (jnp.asarray(temperature) == 0) | (jnp.asarray(top_k) == 1)
    return jnp.where(is_greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)
