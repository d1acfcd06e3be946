"""Classifier-free guidance: away from the unconditional prediction, more or less over time."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vqlab.diffusion.process import Denoise, Process, choose, per_sample

SCHEDULES = ("constant", "linear", "cosine", "interval")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["scale"],
    meta_fields=["schedule", "interval"],
)
@dataclasses.dataclass(frozen=True)
class Guidance:
    """How strong guidance is over the course of sampling.

    A pytree whose only array is `scale`: given to a jitted function as an argument, another scale
    compiles nothing.

    Attributes:
      scale: 1 is the conditional prediction, 0 the unconditional one, more goes beyond the former.
        A number or a JAX scalar.
      schedule: "constant"; "linear" or "cosine", growing over sampling from 1 to `scale`
        (Wang et al. 2024, Analysis of Classifier-Free Guidance Weight Schedulers); "interval",
        `scale` inside `interval` and 1 outside (Kynkäänniemi et al. 2024).
      interval: two times, the share of the way from data, 0, to pure noise, 1. Sampling enters it
        at the larger one.
    """

    scale: Any = 1.0
    schedule: str = "constant"
    interval: Sequence[float] = (0.0, 1.0)

    def __post_init__(self):
        choose("guidance schedule", self.schedule, SCHEDULES)
        if self._is_number and not 0 <= self.scale < math.inf:
            raise ValueError(f"guidance_scale={self.scale} must be finite and at least 0")
        object.__setattr__(self, "interval", tuple(self.interval))  # JSON has lists
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(
                f"guidance_interval={self.interval} must be two ascending times in 0..1"
            )

    @property
    def _is_number(self) -> bool:
        return isinstance(self.scale, numbers.Real)

    @property
    def is_off(self) -> bool:
        """Whether `scale` is the number 1, so that the conditional prediction is all it takes."""
        return self._is_number and self.scale == 1

    def scale_at(self, noisiness: Float[Array, " B"]) -> Float[Array, " B"]:
        """[B]: the scale at each `Process.noisiness`."""
        scale = jnp.asarray(self.scale, jnp.float32)
        if self.schedule == "constant":
            return jnp.broadcast_to(scale, noisiness.shape)
        if self.schedule == "interval":
            low, high = self.interval
            return jnp.where((noisiness >= low) & (noisiness <= high), scale, 1.0)
        share = 1 - noisiness
        if self.schedule == "cosine":
            share = (1 - jnp.cos(math.pi * share)) / 2
        return 1 + (scale - 1) * share


def guide(
    conditional: Float[Array, "B ... c"],
    unconditional: Float[Array, "B ... c"],
    scale: float | Float[Array, ""] | Float[Array, " B"],
    channels: int,
) -> Float[Array, "B ... c"]:
    """unconditional + scale (conditional - unconditional) in the first `channels` channels.

    The others, a variance, are the conditional ones. `scale` is one number or [B]; 1 gives exactly
    `conditional`, 0 exactly `unconditional` in those channels.
    """
    scale = per_sample(jnp.asarray(scale, conditional.dtype), conditional)
    towards, away = conditional[..., :channels], unconditional[..., :channels]
    guided = away + scale * (towards - away)
    guided = jnp.where(scale == 1, towards, jnp.where(scale == 0, away, guided))
    return jnp.concatenate([guided, conditional[..., channels:]], axis=-1)


def guided_denoiser(
    predict: Callable[[Array, Array], Array], process: Process, guidance: Guidance, channels: int
) -> Denoise:
    """`denoise(x_t [B], t [B])` for a sampler from one pass of the network over both halves.

    `predict(x_t [2B], t [2B])` returns outputs [2B]: the first B conditional, the others not.
    """

    def denoise(x_t, t):
        output = predict(jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]))
        conditional, unconditional = jnp.split(output, 2)
        scale = guidance.scale_at(process.noisiness(t))
        return guide(conditional, unconditional, scale, channels)

    return denoise
