"""A generator's samples by the field's protocols: a set, against images of the validation split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from vqlab.evaluation.batches import MakeBatches
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.measures import check_measures, of_text
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, results_table
from vqlab.evaluation.protocol_state import ProtocolState
from vqlab.evaluation.protocols import protocols_of
from vqlab.evaluation.references import References
from vqlab.evaluation.set_evaluation import add_made
from vqlab.evaluation.set_measures import SET_MEASURES
from vqlab.evaluation.statistics_file import ReferenceCache
from vqlab.models.codec import Weights
from vqlab.models.generator import NUMBERS_PER_CLASS, Generator, draw_images
from vqlab.ops.counts import check_count, check_seed
from vqlab.ops.mesh import split_batch
from vqlab.registry import check_choice

Watch = Callable[[Iterable[Mapping[str, Any]], int], Iterable[Mapping[str, Any]]]


class Generation(Evaluator):
    """Draws images of all classes alike and measures them as a set, as files of them are measured.

    They are the first images of each class that `vqlab.generate` draws with the same seed. Metrics
    are called `PROTOCOL/METRIC`, as in `adm/fid`; of fewer than 2,048 images KID stands beside FID.

    Args:
      generator: what draws.
      make_batches: gives the batches of a split; "validation" is read, by crop of the protocols.
      batch_size: images drawn at once, over the devices of the mesh.
      protocols: names, as a text with commas between or a tuple.
      measures: names of measures of sets, likewise; () for those that each protocol has of itself.
      num_images: how many are drawn; 0 for as many as the reference has.
      sampling: settings that differ from the generator's own, by name.
      networks: frozen networks that are given.
      seed: of the images.
      cache: keeps what is known of references.
      watch: what batches to be drawn, {"mask": the rows of this process}, of so many images pass
        through.
    """

    of: ClassVar[str] = "generator"
    uses: ClassVar[tuple[str, ...]] = ("inception",)
    needs = Needs({"validation": 2})

    def __init__(
        self,
        generator: Generator,
        make_batches: MakeBatches,
        *,
        batch_size: int,
        protocols: str | Sequence[str] = "adm",
        measures: str | Sequence[str] = (),
        num_images: int = 0,
        sampling: Mapping[str, Any] | None = None,
        networks: Collection[str] = (),
        seed: int = 0,
        cache: ReferenceCache | None = None,
        watch: Watch = lambda batches, count: batches,
    ):
        self._make_batches, self._watch = make_batches, watch
        self._num_classes = generator.num_classes
        asked = of_text(measures)
        for measure in asked:
            check_choice("measure of samples", measure, SET_MEASURES)
        self._measures = {
            protocol: asked or tuple(name for name in protocol.measures if name in SET_MEASURES)
            for protocol in protocols_of(protocols)
        }
        for chosen in self._measures.values():
            check_measures(chosen, networks)
        self._num_images = num_images and check_count("num_images", num_images, 2)
        self._batch_size, self._seed = batch_size, check_seed(seed)
        self._sampling = generator.sampling.changed(**(sampling or {}))
        generator.check_sampling(self._sampling)
        self._references = References(self._measures, cache)
        self.protocol: dict[str, str] = {}

        def draw(weights, labels, seed, numbers, sampling):
            numbers = split_batch(numbers)
            return draw_images(generator, weights, split_batch(labels), seed, numbers, sampling)[1]

        self._draw = jax.jit(draw)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`PROTOCOL/METRIC`.

        Raises:
          ValueError: there are too few images for a measure.
        """
        self._references.begin()
        self._references.finish(self._make_batches, frozen)
        states = [ProtocolState(protocol, names) for protocol, names in self._measures.items()]
        count = self._num_images or self._references.of(states[0].protocol).count
        for made, mask in self._drawn(weights, count):
            add_made(made, mask, frozen["inception"], states)
        return self._results(states)

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """A table."""
        return [Section("Samples by protocol", results_table(measured.own(name), self.protocol))]

    def _drawn(self, weights: Weights, count: int) -> Iterator[tuple[jax.Array, np.ndarray]]:
        """Batches of `count` images with their masks."""
        labels, numbers = images_of_classes(count, self._num_classes)
        own = np.ones(self._batch_size // jax.process_count(), bool)
        starts = ({"start": n, "mask": own} for n in range(0, count, self._batch_size))
        for batch in self._watch(starts, count):
            rows = batch["start"] + np.arange(self._batch_size)
            chosen = np.minimum(rows, count - 1)
            arrays = labels[chosen], np.uint32(self._seed), numbers[chosen]
            yield self._draw(weights, *arrays, self._sampling), rows < count

    def _results(self, states: Sequence[ProtocolState]) -> dict[str, float]:
        """The numbers; sets `protocol`."""
        results: dict[str, float] = {}
        self.protocol = {}
        for state in states:
            found = state.compute(self._references.of(state.protocol))
            for metric, (value, text) in found.items():
                name = f"{state.protocol.name}/{metric}"
                results[name] = value
                self.protocol[name] = f"{text}; samples with {self._sampling.text}"
        return results


def images_of_classes(count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels int32, numbers uint32) [count] of images of all classes in turn.

    In turn, because Inception Score may be that of chunks as they come. Of fewer images than
    classes some classes have none, evenly spread.
    """
    classes, order = max(num_classes, 1), np.arange(count)
    labels = order % classes if count >= classes else order * classes // count
    numbers = labels * NUMBERS_PER_CLASS + order // classes
    return labels.astype(np.int32), numbers.astype(np.uint32)
