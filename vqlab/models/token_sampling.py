"""Settings with which a second stage samples."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vqlab.ops.counts import check_count

SCHEDULES = ("constant", "linear")
ALWAYS = -1


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "guidance_scale",
        "guidance_interval",
        "is_linear",
        "temperature",
        "top_k",
        "top_p",
    ],
    meta_fields=["is_guided"],
)
@dataclasses.dataclass(frozen=True)
class TokenSampling:
    """A pytree: with other numbers a jitted function compiles nothing.

    Attributes:
      guidance_scale: 1 is the conditional model, 0 the unconditional one.
      guidance_interval: guidance ends after this many positions beyond the first, as in the
        released cfg_interval: positions 0..interval + 1 are guided. -1: all.
      temperature: 0 takes the likeliest index; of concepts it scales the noise of the sampler.
      top_k, top_p: see `vqlab.ops.token_logits`; not for concepts.
      is_linear: guidance grows from 1 + (scale - 1) / n at the first of n positions to
        `guidance_scale` at the last; else it is constant.
      is_guided: whether the unconditional half is computed. Off only for scale 1.
    """

    guidance_scale: Any = 1.0
    guidance_interval: Any = ALWAYS
    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    is_linear: Any = False
    is_guided: bool = False

    @classmethod
    def of(
        cls,
        guidance_scale: Any = 1.0,
        guidance_schedule: str = "constant",
        guidance_interval: Any = ALWAYS,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
    ) -> TokenSampling:
        """From plain numbers.

        Raises:
          ValueError: one is out of range.
        """
        if guidance_schedule not in SCHEDULES:
            raise ValueError(
                f"unknown guidance schedule {guidance_schedule!r}; choose from {list(SCHEDULES)}"
            )
        _check_positive("guidance_scale", guidance_scale)
        _check_positive("temperature", temperature)
        if not _is_number(top_p) or not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p} must be more than 0 and at most 1")
        check_count("top_k", top_k, 0)
        check_count("guidance_interval", guidance_interval, ALWAYS)
        return cls(
            float(guidance_scale),
            guidance_interval,
            float(temperature),
            top_k,
            float(top_p),
            guidance_schedule == "linear",
            guidance_scale != 1,
        )

    def check_codebook(self, codebook_size: int) -> None:
        """Raises ValueError where top_k is more than there are codewords."""
        if self.top_k > codebook_size:
            raise ValueError(
                f"top_k={self.top_k} is more than the {codebook_size} codewords of a group"
            )

    def check_classes(self, num_classes: int) -> None:
        """Raises ValueError where there is guidance towards a class, and there are no classes."""
        if self.is_guided and not num_classes:
            raise ValueError(
                f"guidance_scale={self.guidance_scale} needs classes, and this generator has none: "
                "set guidance_scale=1"
            )

    def scale_at(self, position: Int[Array, ""], num_positions: int) -> Float[Array, ""]:
        """Guidance scale at a position."""
        scale = jnp.asarray(self.guidance_scale, jnp.float32)
        grown = 1 + (scale - 1) * (position + 1) / num_positions
        scale = jnp.where(self.is_linear, grown, scale)
        interval = jnp.asarray(self.guidance_interval)
        is_guided = (interval < 0) | (position <= interval + 1)
        return jnp.where(is_guided, scale, 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_positive(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be finite and at least 0")
