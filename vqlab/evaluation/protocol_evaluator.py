"""Reconstructions by the field's protocols: each number as that protocol takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax

from vqlab.evaluation import names, panels
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.measures import (
    NETWORKS,
    check_measures,
    least_side,
    measurable,
    needs_sets,
    of_text,
)
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.protocol_state import ProtocolState
from vqlab.evaluation.protocols import DEFAULT, Protocol, protocols_of
from vqlab.evaluation.references import References
from vqlab.evaluation.set_evaluation import add_made
from vqlab.evaluation.statistics_file import ReferenceCache
from vqlab.models.codec import Codec, Weights

# (number of units kept, protocol): what is measured at once.
States = Mapping[tuple[str, Protocol], ProtocolState]


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
        self._references = References(self._measures, cache)
        units = codec.units
        self._ways = {names.first(k) + "/": k for k in units.levels if levels and k < units.total}
        self._ways[""] = units.total
        every = {measure for measures in self._measures.values() for measure in measures}
        self.needs = Needs({"validation": 2 if needs_sets(every) else 1}, side=least_side(every))
        self.protocol: dict[str, str] = {}
        self._encode, self._decode = jax.jit(codec.encode), jax.jit(codec.decode)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`PROTOCOL/METRIC` with everything and, with `levels`, under `first_1/`, ....

        Raises:
          ValueError: there are too few images for a measure.
        """
        self._references.begin()
        states = {
            (way, protocol): ProtocolState(protocol, measures)
            for protocol, measures in self._measures.items()
            for way in self._ways
        }
        crops = list(dict.fromkeys(protocol.crop for protocol in self._measures))
        for crop in crops:
            self._reconstruct(crop, states, weights, frozen)
        self._references.finish(self._make_batches, frozen, seen=crops)
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

    def _reconstruct(self, crop: str, states: States, weights, frozen) -> None:
        """One pass over the crops, for all protocols that take them."""
        chosen = {key: state for key, state in states.items() if key[1].crop == crop}
        for number, batch in read(self._make_batches, "validation", crop):
            images, mask = batch["images"], to_host(batch["mask"])
            self._references.add(crop, images, mask, frozen.get("inception"))
            code = self._encode(weights, images)
            key = jax.random.fold_in(self._key, number)
            height, width = images.shape[1:3]
            for way, kept in self._ways.items():
                # Larger than the images where these were padded; see `whole_images`.
                made = self._decode(weights, code, kept, key)[:, :height, :width]
                own = [state for (of, _), state in chosen.items() if of == way]
                for state in own:
                    state.add_pairs(frozen.get("lpips"), images, made, mask)
                add_made(made, mask, frozen.get("inception"), [s for s in own if s.is_of_sets])

    def _results(self, states: States) -> dict[str, float]:
        """The numbers; sets `protocol`."""
        results: dict[str, float] = {}
        self.protocol = {}
        setting = f"; {self._codec.setting}" if self._codec.setting else ""
        for (way, protocol), state in states.items():
            reference = self._references.of(protocol) if state.is_of_sets else None
            kept = f"; {self._codec.units.noun} kept: first {self._ways[way]}" if way else ""
            for metric, (value, text) in state.compute(reference).items():
                name = f"{way}{protocol.name}/{metric}"
                results[name], self.protocol[name] = value, text + kept + setting
        return results
