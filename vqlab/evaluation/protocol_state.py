"""What one protocol has seen of some images: pairs, samples, and in the end its numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqlab.evaluation.batches import to_host
from vqlab.evaluation.paired import PAIRED, PairedMeans, paired_values
from vqlab.evaluation.protocols import Protocol
from vqlab.evaluation.set_measures import SET_MEASURES, bias_note, collector, compare
from vqlab.evaluation.summary import Summary

log = logging.getLogger("vqlab")

_paired = jax.jit(paired_values, static_argnums=(0, 1))


class ProtocolState:
    """Takes batches in; all counts are exact.

    Args:
      protocol: how to measure.
      measures: what to measure.
    """

    def __init__(self, protocol: Protocol, measures: Sequence[str]):
        self.protocol = protocol
        self._sets = tuple(name for name in measures if name in SET_MEASURES)
        self._pairs = tuple(name for name in measures if name in PAIRED)
        self._means = PairedMeans()
        self._samples = collector(self._sets, of_samples=True)
        self._num_pairs = 0

    @property
    def is_of_sets(self) -> bool:
        """Whether it takes samples, and a reference."""
        return bool(self._sets)

    @property
    def is_of_pairs(self) -> bool:
        """Whether it takes pairs."""
        return bool(self._pairs)

    def add_pairs(self, lpips_params: Any, images, made, mask: np.ndarray) -> None:
        """Images [B, H, W, 3] in [-1, 1] and what was made of them; `mask` [B] is on the host."""
        self._num_pairs += int(mask.sum())
        if self._pairs:
            values = _paired(self.protocol, self._pairs, lpips_params, images, made)
            self._means.add({name: to_host(x) for name, x in values.items()}, mask)

    def add_samples(self, features: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """Inception's features of a batch of samples."""
        self._samples.add(features, mask)

    def compute(self, reference: Summary | None) -> dict[str, tuple[float, str]]:
        """{metric: (value, how it was measured)}; of few images a line says that FID is biased.

        Raises:
          ValueError: too few images, or too little is known of the reference.
        """
        values, note = {}, ""
        if self._pairs:
            if not self._num_pairs:
                raise ValueError("none of the images can be read")
            values = self._means.compute(self.protocol)
        count = self._num_pairs
        if self._sets:
            samples = self._samples.summary()
            values = compare(samples, reference, self.protocol, self._sets) | values
            note, count = bias_note(samples, reference), samples.count
        if note and "fid" in values and jax.process_index() == 0:
            log.warning("%s: fid is %s", self.protocol.name, note.removeprefix("; "))
        values["num_images"] = count
        return {metric: (value, self._text(metric, note)) for metric, value in values.items()}

    def _text(self, metric: str, note: str) -> str:
        return self.protocol.describe(metric) + (note if metric in ("fid", "sfid") else "")
