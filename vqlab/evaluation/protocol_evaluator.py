"""Reconstructions by the field's protocols: each number as that protocol takes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax

from vqlab.evaluation import names, panels
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.inception_batches import features_of
from vqlab.evaluation.measures import (
    NETWORKS,
    check_measures,
    least_side,
    measurable,
    needs_sets,
    of_text,
)
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.paired import quantised
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.protocol_state import ProtocolState
from vqlab.evaluation.protocols import DEFAULT, Protocol, protocols_of
from vqlab.evaluation.set_measures import collector, lacking
from vqlab.evaluation.statistics_file import ReferenceCache
from vqlab.evaluation.summary import Collector
from vqlab.models.codec import Codec, Weights

# (number of units kept, protocol): what is measured at once.
States = Mapping[tuple[str, Protocol], ProtocolState]
# (crop, preparation) of references that are not known yet.
Wanted = Mapping[tuple[str, str], Collector]


class ProtocolEvaluator(Evaluator):
    """Measures reconstructions by one or more protocols, in one pass where their crops agree.

    Metrics are called `PROTOCOL/METRIC`, as in `clean/fid`, with the first k units
    `first_4/clean/fid`. FID of fewer than 2,048 images has KID beside it.

    Args:
      codec: of the tokenizer.
      make_batches: gives the batches of a split; "validation" is read, by crop of the protocols.
      protocols: names, as a text with commas between or a tuple.
      measures: names, likewise; () for those that each protocol has of itself, as far as their
        networks are given.
      levels: whether to measure each number of units kept, and not only all of them.
      crop: of all protocols, in the place of their own, such as "whole".
      networks: frozen networks that are given.
      seed: of the decoder's noise.
      cache: keeps what is known of references.
    """

    uses: ClassVar[tuple[str, ...]] = NETWORKS

    def __init__(
        self,
        codec: Codec,
        make_batches: MakeBatches,
        *,
        protocols: str | Sequence[str] = DEFAULT,
        measures: str | Sequence[str] = (),
        levels: bool = False,
        crop: str = "",
        networks: Collection[str] = (),
        seed: int = 0,
        cache: ReferenceCache | None = None,
    ):
        self._codec, self._make_batches = codec, make_batches
        asked = check_measures(of_text(measures), networks)
        self._measures = {
            protocol: asked or measurable(protocol.measures, networks)
            for protocol in protocols_of(protocols, crop)
        }
        self._key = jax.random.key(seed)
        self._cache = cache or ReferenceCache()
        units = codec.units
        self._ways = {names.first(k) + "/": k for k in units.levels if levels and k < units.total}
        self._ways[""] = units.total
        every = {measure for measures in self._measures.values() for measure in measures}
        self.needs = Needs({"validation": 2 if needs_sets(every) else 1}, side=least_side(every))
        self.protocol: dict[str, str] = {}
        self._encode, self._decode = jax.jit(codec.encode), jax.jit(codec.decode)
        self._quantise = jax.jit(quantised, static_argnums=1)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`PROTOCOL/METRIC` with everything and, with `levels`, under `first_1/`, ....

        Raises:
          ValueError: there are too few images for a measure.
        """
        wanted = self._unknown_references()
        states = {
            (way, protocol): ProtocolState(protocol, measures)
            for protocol, measures in self._measures.items()
            for way in self._ways
        }
        crops = list(dict.fromkeys(protocol.crop for protocol in self._measures))
        for crop in crops:
            self._reconstruct(crop, states, wanted, weights, frozen)
        for crop in dict.fromkeys(crop for crop, _ in wanted if crop not in crops):
            for _, batch in read(self._make_batches, "validation", crop):
                self._add_references(crop, batch["images"], to_host(batch["mask"]), wanted, frozen)
        for (crop, preparation), found in wanted.items():
            self._cache.put(found.summary(), crop=crop, preparation=preparation)
        return self._results(states)

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The table of results, and some of the measures over the number kept."""
        own, units = measured.own(name), self._codec.units
        shown = [metric for metric in own if metric.split("/")[1:] in (["fid"], ["kid"], ["psnr"])]
        plots = [
            panels.level_plot(name, measured, units, metric, title=metric, ylabel=metric)
            for metric in shown
        ]
        body = panels.results_table(own, self.protocol) + panels.row(plots)
        return [Section("Measures by protocol", body + panels.level_table(own, units.noun))]

    def _unknown_references(self) -> Wanted:
        asked: dict[tuple[str, str], list[str]] = {}
        for protocol, measures in self._measures.items():
            if needs_sets(measures):
                asked.setdefault(protocol.reference, []).extend(measures)
        return {
            key: collector(measures, of_samples=False)
            for key, measures in asked.items()
            if (known := self._known(key)) is None or lacking(known, measures)
        }

    def _known(self, key: tuple[str, str]):
        return self._cache.get(crop=key[0], preparation=key[1])

    def _reconstruct(self, crop: str, states: States, wanted: Wanted, weights, frozen) -> None:
        """One pass over the crops, for all protocols that take them."""
        chosen = {key: state for key, state in states.items() if key[1].crop == crop}
        for number, batch in read(self._make_batches, "validation", crop):
            images, mask = batch["images"], to_host(batch["mask"])
            self._add_references(crop, images, mask, wanted, frozen)
            code = self._encode(weights, images)
            key = jax.random.fold_in(self._key, number)
            height, width = images.shape[1:3]
            for way, kept in self._ways.items():
                # Larger than the images where these were padded; see `whole_images`.
                made = self._decode(weights, code, kept, key)[:, :height, :width]
                own = [state for (of, _), state in chosen.items() if of == way]
                self._add(own, images, made, mask, frozen)

    def _add(self, states: Iterable[ProtocolState], images, made, mask, frozen) -> None:
        """A batch of pairs; protocols that see the same pixels share their features."""
        features = {}
        for state in states:
            state.add_pairs(frozen.get("lpips"), images, made, mask)
            if not state.is_of_sets:
                continue
            view = state.protocol.rounding, state.protocol.preparation
            if view not in features:
                pixels = self._quantise(made, view[0])
                features[view] = features_of(frozen["inception"], pixels, view[1])
            state.add_samples(features[view], mask)

    def _add_references(self, crop: str, images, mask, wanted: Wanted, frozen) -> None:
        for (of, preparation), found in wanted.items():
            if of == crop:
                pixels = self._quantise(images, "round")
                found.add(features_of(frozen["inception"], pixels, preparation), mask)

    def _results(self, states: States) -> dict[str, float]:
        """The numbers; sets `protocol`."""
        results: dict[str, float] = {}
        self.protocol = {}
        setting = f"; {self._codec.setting}" if self._codec.setting else ""
        for (way, protocol), state in states.items():
            reference = self._known(protocol.reference) if state.is_of_sets else None
            kept = f"; {self._codec.units.noun} kept: first {self._ways[way]}" if way else ""
            for metric, (value, text) in state.compute(reference).items():
                name = f"{way}{protocol.name}/{metric}"
                results[name], self.protocol[name] = value, text + kept + setting
        return results
