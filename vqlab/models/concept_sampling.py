"""Sampling a `ConceptTransformer`: one scan over concepts with a cache, in each one the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqlab.diffusion.guidance import Guidance, guided_denoiser
from vqlab.models.concept_transformer import ConceptTransformer
from vqlab.models.token_sampling import TokenSampling


class Noise(NamedTuple):
    """Noise instead of drawing it.

    start: [S, B, D], where each concept's sampling starts. steps: [S, N, B, D], of each step.
    """

    start: Float[Array, "S B D"]
    steps: Float[Array, "S N B D"]


def sample_concepts(
    module: ConceptTransformer,
    variables: Mapping[str, Any],
    labels: Int[Array, " B"],
    keys: Array,
    sampling: TokenSampling,
    *,
    num_steps: int,
    sampler: str = "",
    given: Float[Array, "B S D"] | None = None,
    num_given: int | Int[Array, ""] = 0,
    noise: Noise | None = None,
) -> tuple[Float[Array, "B S D"], Float[Array, "S b W"]]:
    """(concepts of B images, the head's conditions); a pure function, to be jitted.

    Args:
      module: the network, unbound.
      variables: its variables.
      labels: classes; ignored by a network without classes.
      keys: [B] random keys, one for each image: an image does not depend on the others.
      sampling: settings; `temperature` scales the noise of the process's steps.
      num_steps, sampler: of the process; see `Process.sample`.
      given: concepts of which the first `num_given` are kept.
      num_given: 0..S.
      noise: see `Noise`.

    The conditions are of the B images, with guidance followed by those without class.
    """
    sampling.check_classes(module.num_classes)
    if is_guided := sampling.is_guided:
        labels = jnp.concatenate([labels, jnp.full_like(labels, module.num_classes)])

    def call(method: str, *arguments: Any) -> Any:
        return module.apply(variables, *arguments, method=method)

    def draw(conditions: Array, number: Array, drawn: Noise) -> Array:
        denoise = _denoiser(module, call, conditions, number, sampling, is_guided)
        return module.process.sample(
            denoise,
            drawn.start,
            key=jax.random.key(0),  # all noise is given
            num_steps=num_steps,
            sampler=sampler,
            temperature=sampling.temperature,
            step_noise=drawn.steps,
        )

    def body(carry, inputs):
        (conditions, cache), (number, own) = carry, inputs
        own = _drawn_noise(keys, number, num_steps, module.concept_dim) if own is None else own
        concepts = draw(conditions, number, own)
        if given is not None:
            known = jax.lax.dynamic_index_in_dim(given, number, 1, keepdims=False)
            concepts = jnp.where(number < num_given, known, concepts)
        following = jnp.concatenate([concepts, concepts]) if is_guided else concepts
        return call("step", following, cache, number), (concepts, conditions)

    numbers = jnp.arange(module.num_kept)
    _, (concepts, conditions) = jax.lax.scan(body, call("begin", labels), (numbers, noise))
    return jnp.swapaxes(concepts, 0, 1), conditions


def _denoiser(
    module: ConceptTransformer,
    call: Callable,
    conditions: Array,
    number: Array,
    sampling: TokenSampling,
    is_guided: bool,
) -> Callable[[Array, Array], Array]:
    """The head under the conditions of one concept, guided at that concept's scale."""

    def predict(x_t: Array, t: Array) -> Array:
        return call("denoise", x_t, t, conditions)

    if not is_guided:
        return predict
    scale = sampling.scale_at(number, module.num_kept)
    return guided_denoiser(predict, module.process, Guidance(scale), module.concept_dim)


def _drawn_noise(keys: Array, number: Array, num_steps: int, dim: int) -> Noise:
    """Of one concept, from each image's own key."""

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, number), (num_steps + 1, dim))

    drawn = jax.vmap(draw, out_axes=1)(keys)
    return Noise(drawn[0], drawn[1:])
