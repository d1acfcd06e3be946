"""What sets of images are compared with: statistics of the validation images, worked out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.inception_batches import features_of
from vqlab.evaluation.measures import needs_sets
from vqlab.evaluation.paired import to_pixels
from vqlab.evaluation.protocols import Protocol
from vqlab.evaluation.set_measures import collector, lacking
from vqlab.evaluation.statistics_file import ReferenceCache
from vqlab.evaluation.summary import Collector, Summary


class References:
    """The summaries that protocols' measures of sets take, one for each crop and preparation.

    `begin`, then `add` batches or let `finish` read them.

    Args:
      measures: of each protocol.
      cache: keeps what is known.
    """

    def __init__(
        self, measures: Mapping[Protocol, Sequence[str]], cache: ReferenceCache | None = None
    ):
        self._measures = measures
        self._cache = cache or ReferenceCache()
        self._wanted: dict[tuple[str, str], Collector] = {}

    def begin(self) -> None:
        """Finds out what is not known yet."""
        asked: dict[tuple[str, str], list[str]] = {}
        for protocol, measures in self._measures.items():
            if needs_sets(measures):
                asked.setdefault(protocol.reference, []).extend(measures)
        self._wanted = {
            key: collector(measures, of_samples=False)
            for key, measures in asked.items()
            if (known := self._known(key)) is None or lacking(known, measures)
        }

    def add(self, crop: str, images: jax.Array, mask: np.ndarray, inception: Any) -> None:
        """A batch of these crops, [B, H, W, 3] in [-1, 1]; `mask` [B] is on the host."""
        for (of, preparation), found in self._wanted.items():
            if of == crop:
                found.add(features_of(inception, to_pixels(images, "round"), preparation), mask)

    def finish(
        self, make_batches: MakeBatches, frozen: Mapping[str, Any], seen: Collection[str] = ()
    ) -> None:
        """Reads the validation split by the crops that were not `seen`, and keeps what is found."""
        for crop in dict.fromkeys(crop for crop, _ in self._wanted if crop not in seen):
            for _, batch in read(make_batches, "validation", crop):
                self.add(crop, batch["images"], to_host(batch["mask"]), frozen["inception"])
        for (crop, preparation), found in self._wanted.items():
            self._cache.put(found.summary(), crop=crop, preparation=preparation)

    def of(self, protocol: Protocol) -> Summary | None:
        """What its samples are compared with; None where none of its measures is of sets."""
        return self._known(protocol.reference)

    def _known(self, key: tuple[str, str]) -> Summary | None:
        return self._cache.get(crop=key[0], preparation=key[1])
