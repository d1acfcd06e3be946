"""Settings with which a generator samples, its tokenizer's decoder among them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from vqlab.models.codec import Sampling
from vqlab.models.token_sampling import ALWAYS, TokenSampling


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "decoding"],
    meta_fields=["num_steps", "sampler"],
)
@dataclasses.dataclass(frozen=True)
class GeneratorSampling:
    """How a generator samples. A pytree: other numbers compile nothing.

    tokens: guidance, temperature and cuts of the code. num_steps, sampler: of the process that
    draws a continuous token; "" for its own sampler. decoding: of the tokenizer's decoder, None
    where it draws nothing.
    """

    tokens: TokenSampling = TokenSampling()
    num_steps: int = 250
    sampler: str = ""
    decoding: Sampling | None = None

    @classmethod
    def of(
        cls,
        guidance_scale: Any = 1.0,
        guidance_schedule: str = "constant",
        guidance_interval: Any = ALWAYS,
        temperature: Any = 1.0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        num_steps: int = 250,
        sampler: str = "",
        decoding: Mapping[str, Any] | None = None,
    ) -> GeneratorSampling:
        """From plain settings, those of `config.sampling`; see `TokenSampling.of`.

        Raises:
          ValueError: one is out of range.
        """
        tokens = TokenSampling.of(
            guidance_scale, guidance_schedule, guidance_interval, temperature, top_k, top_p
        )
        return cls(tokens, num_steps, sampler, Sampling.of(**decoding) if decoding else None)

    def settings(self) -> dict[str, Any]:
        """The arguments of `of`."""
        return {
            "guidance_scale": self.tokens.guidance_scale,
            "guidance_schedule": "linear" if self.tokens.is_linear else "constant",
            "guidance_interval": self.tokens.guidance_interval,
            "temperature": self.tokens.temperature,
            "top_k": self.tokens.top_k,
            "top_p": self.tokens.top_p,
            "num_steps": self.num_steps,
            "sampler": self.sampler,
            "decoding": self.decoding.settings() if self.decoding else None,
        }

    @property
    def text(self) -> str:
        """The settings for people: guidance, and what is not as usual."""
        usual = GeneratorSampling().settings() | {"guidance_scale": None}
        return ", ".join(f"{k}={v}" for k, v in self.settings().items() if v != usual[k])

    def changed(self, **settings: Any) -> GeneratorSampling:
        """With some settings replaced; None leaves one as it is.

        Raises:
          ValueError: one is unknown or out of range.
        """
        if unknown := sorted(set(settings) - set(known := self.settings())):
            raise ValueError(f"a generator has no settings {unknown}; choose from {list(known)}")
        given = {name: value for name, value in settings.items() if value is not None}
        return GeneratorSampling.of(**known | given)
