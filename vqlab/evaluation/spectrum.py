"""Power spectra of reconstructions against the originals', for each number of units kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.evaluation import figures, panels, spectra
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.names import first
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Codec, Weights

DISTANCE = (
    "mean |log10 power - log10 power of the originals| over log frequency; radial power of the "
    "luma, mean over images"
)
COUPLING = "spectrum_distance averaged over the numbers kept ({levels}), each with equal weight"


class PowerSpectrum(Evaluator):
    """How much of the originals' power each number of units kept has, by frequency.

    Semanticist, section 5.4: a tokenizer whose power grows with every unit stores spectrum and
    meaning together; one whose spectrum is right from the first unit on leaves the spectrum to its
    decoder.

    After `measure`, `frequency` [R], `original_power` [R] and `power` {number kept: [R]} hold the
    curves.

    Args:
      codec: of the tokenizer, whose `prefixes` are kept.
      make_batches: gives the batches of a split; "validation" is read, twice where what stands for
        units not kept is made of all the images.
      seed: of the decoder's noise, the same at every level.
    """

    def __init__(self, codec: Codec, make_batches: MakeBatches, *, seed: int = 0):
        self._codec = codec
        self._make_batches = make_batches
        self._key = jax.random.key(seed)
        self._units = codec.prefixes
        self._levels = self._units.levels or (self._units.total,)
        self.frequency = self.original_power = np.zeros(0)
        self.power: dict[int, np.ndarray] = {}
        self.needs = Needs({"validation": 1}, side=spectra.MIN_SIDE)
        self.protocol: dict[str, str] = {}
        self._encode = jax.jit(codec.encode)
        self._sum_stand_ins = jax.jit(self._encode_and_sum) if codec.stand_in else None
        self._sum_decoded = jax.jit(self._decode_and_sum)
        self._sum = jax.jit(_sum_power)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`spectrum_distance` with everything and under `first_1/`, ..., in powers of ten;
        `semantic_spectrum_coupling`, the mean of the latter, which is small where the spectrum is
        right from the first unit on.

        Raises:
          ValueError: there are no images, or they are too small.
        """
        original, count = 0.0, 0
        stand_in = self._mean_stand_in(weights)
        totals: dict[int, Any] = dict.fromkeys(self._levels, 0.0)
        for number, batch in read(self._make_batches, "validation"):
            images, mask = batch["images"], batch["mask"]
            original += to_host(self._sum(images, mask)).astype(np.float64)
            count += int(to_host(mask).sum())
            code = self._encode(weights, images)
            key = jax.random.fold_in(self._key, number)
            for k in self._levels:
                power = to_host(self._sum_decoded(weights, code, mask, k, key, stand_in))
                totals[k] += power.astype(np.float64)
        self.frequency = spectra.frequencies(*images.shape[1:3])
        self.original_power = original / count
        self.power = {k: total / count for k, total in totals.items()}
        return self._results()

    def arrays(self) -> dict[str, np.ndarray]:
        """`frequency` [R], `original` [R], `levels` [L] and `power` [L, R]; see `Evaluator`."""
        return {
            "frequency": self.frequency,
            "original": self.original_power,
            "levels": np.array(list(self.power)),
            "power": np.array(list(self.power.values())),
        }

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The curves on logarithmic axes, and their distance over the number kept."""
        own = measured.own(name)
        curves = {self._label(k): (self.frequency, power) for k, power in self.power.items()}
        original = self.frequency, self.original_power
        plots = [
            panels.figure(figures.spectra_png(original, curves), "Radial power spectrum"),
            panels.level_plot(
                name,
                measured,
                self._units,
                "spectrum_distance",
                title="Distance from the originals' spectrum",
                ylabel="powers of ten",
            ),
        ]
        return [
            Section(
                "Power spectrum",
                panels.results_table(own, self.protocol)
                + panels.row(plots)
                + panels.level_table(own, self._units.noun),
            )
        ]

    def _mean_stand_in(self, weights: Weights) -> np.ndarray | None:
        """Over all images; None where they make no difference to what stands for units not kept."""
        if self._sum_stand_ins is None:
            return None
        total, count = 0.0, 0
        for _, batch in read(self._make_batches, "validation"):
            summed = self._sum_stand_ins(weights, batch["images"], batch["mask"])
            total += to_host(summed).astype(np.float64)
            count += int(to_host(batch["mask"]).sum())
        return np.asarray(total / count, np.float32)

    def _results(self) -> dict[str, float]:
        """The numbers of the curves; sets `protocol`."""
        units, setting = self._units, self._codec.setting
        distances = {
            k: spectra.spectrum_distance(power, self.original_power, self.frequency)
            for k, power in self.power.items()
        }
        results = {"spectrum_distance": distances[units.total]}
        setting = f"; {setting}" if setting else ""
        self.protocol = {"spectrum_distance": DISTANCE + setting}
        if units.levels:
            results["semantic_spectrum_coupling"] = float(np.mean(list(distances.values())))
            levels = ", ".join(map(str, units.levels))
            self.protocol["semantic_spectrum_coupling"] = COUPLING.format(levels=levels)
        for k in units.levels:
            name = first(k, "spectrum_distance")
            results[name] = distances[k]
            self.protocol[name] = (
                f"as spectrum_distance, {units.noun} kept: first {k}, the others {self._absent}"
            )
        return results

    @property
    def _absent(self) -> str:
        """What stands for the others, in words."""
        return self._units.absent + " of these images" * (self._codec.stand_in is not None)

    def _label(self, k: int) -> str:
        noun = self._units.noun
        return panels.count_label(k, noun) if noun else "reconstructions"

    def _encode_and_sum(self, weights, images, mask):
        stand_ins = self._codec.stand_in(weights, self._codec.encode(weights, images))
        return _sum_shown(stand_ins, mask)

    def _decode_and_sum(self, weights, code, mask, k, key, stand_in):
        return _sum_power(self._codec.decode_prefix(weights, code, k, key, stand_in), mask)


def _sum_power(images, mask):
    return _sum_shown(spectra.radial_power(images), mask)


def _sum_shown(values, mask):
    """Of [B, n] the sum over those images that are no padding."""
    return jnp.sum(jnp.where(mask[:, None], values, 0), axis=0)
