"""Sampling an `IndexTransformer`: one scan over positions with a cache, in each one over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vqlab.diffusion.guidance import guide
from vqlab.models.index_transformer import IndexTransformer
from vqlab.models.token_sampling import TokenSampling
from vqlab.ops.token_logits import draw_token


def sample_indices(
    module: IndexTransformer,
    variables: Mapping[str, Any],
    look_up: Callable[[Array], Array],
    labels: Int[Array, " B"],
    keys: Array,
    sampling: TokenSampling,
    given: Int[Array, "B L G"] | None = None,
    num_given: int | Int[Array, ""] = 0,
) -> Int[Array, "B L G"]:
    """Indices of B images; a pure function, to be jitted.

    Args:
      module: the network, unbound.
      variables: its variables.
      look_up: indices [B, G] -> codewords [B, C], as the network was trained on them.
      labels: classes; ignored by a network without classes.
      keys: [B] random keys, one for each image: an image does not depend on the others.
      sampling: settings.
      given: indices of which those of the first `num_given` positions are kept.
      num_given: 0..L.
    """
    sampling.check_classes(module.num_classes)
    if is_guided := sampling.is_guided:
        labels = jnp.concatenate([labels, jnp.full_like(labels, module.num_classes)])

    def call(method: str, *arguments: Any) -> Any:
        return module.apply(variables, *arguments, method=method)

    def draw(logits: Array, position: Array, group: Array) -> Array:
        """Indices [B] from logits [B or 2B, K]."""
        if is_guided:
            towards, away = jnp.split(logits, 2)
            scale = sampling.scale_at(position, module.num_positions)
            logits = guide(towards, away, scale, logits.shape[-1])
        number = position * module.num_groups + group
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        return draw_token(own, logits, sampling.temperature, sampling.top_k, sampling.top_p)

    def keep_given(drawn: Array, position: Array, group: Array) -> Array:
        if given is None:
            return drawn
        known = jax.lax.dynamic_index_in_dim(given, position, 1, keepdims=False)
        known = jax.lax.dynamic_index_in_dim(known, group, 1, keepdims=False)
        return jnp.where(position < num_given, known, drawn)

    def choose(logits: Array, position: Array, group: Array) -> Array:
        return keep_given(draw(logits, position, group), position, group)

    def body(carry, position):
        x, cache = carry
        hidden, cache = call("step", x, cache, position)
        indices = _sample_groups(module.num_groups, call, hidden, position, choose, is_guided)
        x = _doubled(call("project", look_up(indices)), is_guided)
        return (x, cache), indices

    start = call("embed_class", labels), call("empty_cache", labels)
    _, indices = jax.lax.scan(body, start, jnp.arange(module.num_positions))
    return jnp.swapaxes(indices, 0, 1)


def _sample_groups(
    num_groups: int, call: Callable, hidden: Array, position: Array, choose: Callable, doubled: bool
) -> Int[Array, "B G"]:
    """Indices of one position from its state [B or 2B, D]."""

    def body(carry, group):
        logits, cache = carry
        indices = choose(logits, position, group)
        return call("step_groups", cache, _doubled(indices, doubled), group), indices

    carry, first = jax.lax.scan(body, call("begin_groups", hidden), jnp.arange(num_groups - 1))
    last = choose(carry[0], position, jnp.int32(num_groups - 1))
    return jnp.concatenate([first, last[None]]).T


def _doubled(x: Array, is_guided: bool) -> Array:
    """For the conditional half and the other."""
    return jnp.concatenate([x, x]) if is_guided else x
