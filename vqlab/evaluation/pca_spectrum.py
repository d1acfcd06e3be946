"""Power spectra by principal components of the pixels: how the linear tokenizer's power grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vqlab.evaluation.batches import MakeBatches, check_split, read, to_host
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.pca import MIN_FITTED, fit_components
from vqlab.evaluation.spectra import MIN_SIDE
from vqlab.evaluation.spectrum import PowerSpectrum
from vqlab.models.codec import Codec, Units, Weights


class _Components:
    """Images as their principal components' scores; the weights are (mean, components)."""

    setting: ClassVar[str] = ""
    stand_in: ClassVar[None] = None

    def __init__(self, levels: tuple[int, ...]):
        self.prefixes = Units("components", levels[-1], levels, "the mean image", 1)

    def encode(self, weights, images):
        """[B, n]."""
        mean, components = weights
        pixels = jnp.clip(images, -1, 1).reshape(len(images), -1)
        return jnp.matmul(pixels - mean, components.T, precision="highest")

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        """Images [B, H, W, 3] of the first scores."""
        del key, stand_in
        mean, components = weights
        kept = jnp.where(jnp.arange(len(components)) < num_kept, code, 0)
        pixels = mean + jnp.matmul(kept, components, precision="highest")
        side = round((pixels.shape[-1] / 3) ** 0.5)
        return pixels.reshape(len(code), side, side, 3)


class ComponentSpectrum(PowerSpectrum):
    """`PowerSpectrum` of images of their first k principal components, k = 1, 2, 4, ....

    Args:
      codec: not used: this is what any tokenizer stands beside.
      make_batches: gives the batches of a split. Those of `fit_split` are held in memory twice.
      fit_split: whose images the components are fitted to.
      max_components: the largest k; a power of two.
      seed: of the randomised decomposition of large data.
    """

    def __init__(
        self,
        codec: Codec,
        make_batches: MakeBatches,
        *,
        fit_split: str = "train",
        max_components: int = 256,
        seed: int = 0,
    ):
        del codec
        check_split(fit_split)
        if max_components < 1 or max_components & (max_components - 1):
            raise ValueError(f"max_components={max_components} is no power of two")
        levels = tuple(2**i for i in range(max_components.bit_length()))
        super().__init__(_Components(levels), make_batches)
        self._fit_split, self._fit_seed = fit_split, seed
        self._results_once: dict[str, float] = {}
        self.needs = Needs(
            {"validation": 1, fit_split: max(MIN_FITTED, max_components + 1)}, side=MIN_SIDE
        )

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """As `PowerSpectrum` names them; measured once, as the weights make no difference."""
        del weights, frozen
        if not self._results_once:
            images = [
                to_host(batch["images"])[to_host(batch["mask"])]
                for _, batch in read(self._make_batches, self._fit_split)
            ]
            fitted = np.clip(np.concatenate(images), -1, 1).astype(np.float32)
            fit = fit_components(fitted, self._levels[-1], self._fit_seed)
            self._results_once = super().measure(tuple(map(jnp.asarray, fit)), {})
            self.protocol = {
                name: f"{text}; {len(fitted)} {self._fit_split} images fitted to"
                for name, text in self.protocol.items()
            }
        return dict(self._results_once)

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """As of a tokenizer's spectrum, under a heading of its own."""
        heading = "Power spectrum of principal components"
        return [one._replace(heading=heading) for one in super().sections(name, measured)]
