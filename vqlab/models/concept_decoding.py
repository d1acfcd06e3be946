"""Images from concepts: guided sampling given the first of them, and the loss given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqlab.diffusion.guidance import Guidance, guided_denoiser
from vqlab.ops import nesting
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import placed_as

NO_GUIDANCE = Guidance()


def decode_concepts(
    model: nn.Module,
    variables: Mapping[str, Any],
    latent_variables: Mapping[str, Any],
    concepts: jax.Array,
    *,
    key: jax.Array,
    num_kept: int | jax.Array | None = None,
    guidance: Guidance = NO_GUIDANCE,
    num_steps: int = 25,
    sampler: str = "",
    temperature: float = 1.0,
) -> jax.Array:
    """Images [B, H, W, 3], not clipped, that the first `num_kept` concepts describe.

    Args:
      model: a `Semanticist`, unbound.
      variables: {"params": ..., "constants": ...} of the model.
      latent_variables: of the latent space's autoencoder; {} for pixels.
      concepts: [B, S, D]; those beyond `num_kept` change nothing.
      key: of the starting noise and the sampler's.
      num_kept: 0..S, one for all or [B]; None for all S.
      guidance: scale and schedule of classifier-free guidance.
      num_steps, sampler, temperature: see `Process.sample`.
    """
    noise_key, sample_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (concepts.shape[0], *model.latent_shape))
    denoise = concept_denoiser(model, variables, concepts, num_kept=num_kept, guidance=guidance)
    latents = model.process.sample(
        denoise,
        placed_as(noise, concepts),
        key=sample_key,
        num_steps=num_steps,
        sampler=sampler,
        temperature=temperature,
    )
    return model.latent_space.decode(latent_variables, latents)


def concept_denoiser(
    model: nn.Module,
    variables: Mapping[str, Any],
    concepts: jax.Array,
    *,
    num_kept: int | jax.Array | None = None,
    guidance: Guidance = NO_GUIDANCE,
):
    """`denoise(x_t, t)` given the first `num_kept` concepts, for a process's sampler.

    With guidance one pass serves both halves: all nulls for the unconditional one (Semanticist,
    C.1; diffuse_slot.py sample).
    """
    keep = _keep(num_kept, concepts)

    def predict(x_t, t, concepts, keep):
        output = model.apply(variables, x_t, t, concepts, keep_mask=keep, method="denoise")
        return output.prediction

    if guidance.is_off:
        return lambda x_t, t: predict(x_t, t, concepts, keep)
    both = jnp.concatenate([concepts, concepts])
    both_keep = jnp.concatenate([keep, jnp.zeros_like(keep)])
    return guided_denoiser(
        lambda x_t, t: predict(x_t, t, both, both_keep),
        model.process,
        guidance,
        model.latent_space.channels,
    )


def concept_losses(
    model: nn.Module,
    variables: Mapping[str, Any],
    latents: jax.Array,
    concepts: jax.Array,
    *,
    key: jax.Array,
    num_kept: int | jax.Array | None = None,
) -> jax.Array:
    """[B]: each sample's squared error of the prediction, at one random time and noise.

    The same key gives the same times and noise for any `num_kept`, so curves over it compare like
    with like. Of DDPM's hybrid loss this is the first term.
    """
    time_key, noise_key = jax.random.split(key)
    t = model.process.draw_times(time_key, latents.shape[0])
    noise = jax.random.normal(noise_key, latents.shape)
    output = model.apply(
        variables,
        model.process.add_noise(latents, noise, t),
        t,
        concepts,
        keep_mask=_keep(num_kept, concepts),
        method="denoise",
    )
    return model.process.losses(output.prediction, latents, noise, t)["mse"]


def _keep(num_kept: int | jax.Array | None, concepts: jax.Array) -> jax.Array:
    batch, total = concepts.shape[:2]
    if not isinstance(num_kept, jax.Array):
        num_kept = check_kept("num_concepts", num_kept, total)
    return nesting.keep_first(jnp.broadcast_to(jnp.asarray(num_kept), (batch,)), total)
