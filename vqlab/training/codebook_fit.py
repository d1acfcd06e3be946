"""Codebooks fitted to tokens alone: a bottleneck without a network around it, in one scan.

Tokens do not move, so what is seen is the codebook's own doing: which codewords gradients reach,
and what reseeding changes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from vqlab.ops.rng import streams

RNGS = ("mask", "reseed", "posterior")  # what bottlenecks draw from in training


class FitState(NamedTuple):
    """Of all codebooks; every leaf has an axis [G] in front, but for the number of steps taken."""

    params: Any
    stats: Any
    opt_state: Any
    step: jax.Array


class CodebookFit:
    """Fits `num_groups` bottlenecks of one kind, each to its share of the channels.

    The groups know nothing of each other, so G of K codewords tell K**G tokens apart: MGVQ's
    groups, for a quantizer whose vectors have a length. With one group it is that quantizer.

    Args:
      quantizer: of C / G channels, with codewords and one group of its own, unbound.
      num_groups: G.
      optimizer: of each of them.
      batch_size: tokens that a step draws.
      deviation: of the normal codewords that it begins with, in all directions alike, as PyTorch's
        embeddings do with 1; 0: codewords as the quantizer itself makes them.
    """

    def __init__(
        self,
        quantizer: nn.Module,
        num_groups: int,
        optimizer: optax.GradientTransformation,
        batch_size: int,
        deviation: float = 0.0,
    ):
        if num_groups < 1 or batch_size < 1:
            raise ValueError(f"{num_groups} groups, batches of {batch_size}: both at least 1")
        self._quantizer, self._num_groups = quantizer, num_groups
        self._optimizer, self._batch_size = optimizer, batch_size
        self._deviation = deviation
        self._quantize = jax.jit(jax.vmap(self._quantize_group, (0, 0, 1), 1))
        self._init = jax.jit(jax.vmap(self._init_group, (0, 1)))

    def init(self, key: jax.Array, tokens: Float[Array, "N C"]) -> FitState:
        """Codebooks as the quantizer begins with them.

        Raises:
          ValueError: the channels do not fit the quantizer and the number of groups.
        """
        params, stats, opt_state = self._init(
            jax.random.split(key, self._num_groups), self._split(tokens[:1])
        )
        return FitState(params, stats, opt_state, jnp.int32(0))

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def advance(
        self, state: FitState, key: jax.Array, tokens: Float[Array, "N C"], num_steps: int
    ) -> FitState:
        """After so many steps more; the same key for all of a run."""

        def step(state, _):
            draw, learn = jax.random.split(jax.random.fold_in(key, state.step))
            drawn = jax.random.randint(draw, (self._batch_size,), 0, len(tokens))
            keys = jax.random.split(learn, self._num_groups)
            learned = jax.vmap(self._learn, (0, 0, 0, 0, 1))(
                keys, state.params, state.stats, state.opt_state, self._split(tokens[drawn])
            )
            return FitState(*learned, state.step + 1), None

        return jax.lax.scan(step, state, length=num_steps)[0]

    def quantize(
        self, state: FitState, tokens: Float[Array, "N C"]
    ) -> tuple[Float[Array, "N C"], Int[Array, "N G"]]:
        """What becomes of tokens, and the index of each group."""
        latents, indices = self._quantize(state.params, state.stats, self._split(tokens))
        return latents.reshape(tokens.shape), indices

    def codewords(self, state: FitState, size: int) -> Float[Array, "G K D"]:
        """All K = `size` codewords of each group."""

        def look_up(params, stats):
            variables = {"params": params, **stats}
            return self._quantizer.apply(variables, jnp.arange(size)[:, None], method="lookup")

        return jax.vmap(look_up)(state.params, state.stats)

    def _split(self, tokens: Float[Array, "N C"]) -> Float[Array, "N G D"]:
        channels, groups = tokens.shape[-1], self._num_groups
        if channels % groups:
            raise ValueError(f"{channels} channels do not split into {groups} groups")
        return tokens.reshape(len(tokens), groups, channels // groups)

    def _init_group(self, key, tokens):
        rngs = streams(key, "params", *RNGS)
        variables = dict(self._quantizer.init(rngs, tokens, train=False))
        params = variables.pop("params")
        if self._deviation:
            drawn = jax.random.normal(key, params["codebook"].shape)
            params = {**params, "codebook": self._deviation * drawn}
        return params, variables, self._optimizer.init(params)

    def _learn(self, key, params, stats, opt_state, tokens):
        """One step of one group: its gradients, then what is no gradient step."""

        def loss(params):
            quantized, changed = self._quantizer.apply(
                {"params": params, **stats},
                tokens,
                train=True,
                mutable=list(stats),
                rngs=streams(key, *RNGS),
            )
            return sum(map(jnp.sum, quantized.losses.values())), (quantized.update, changed)

        gradients, (update, stats) = jax.grad(loss, has_aux=True)(params)
        changes, opt_state = self._optimizer.update(gradients, opt_state, params)
        params = self._quantizer.post_update(optax.apply_updates(params, changes), update)
        return params, stats, opt_state

    def _quantize_group(self, params, stats, tokens):
        quantized = self._quantizer.apply({"params": params, **stats}, tokens, train=False)
        return quantized.latents, quantized.indices[:, 0]
