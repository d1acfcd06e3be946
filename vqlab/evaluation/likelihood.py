"""How well a generator predicts the codes of images that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, results_table
from vqlab.models.codec import Weights
from vqlab.models.generator import TOKENIZER, Generator


class Likelihood(Evaluator):
    """The generator's own scores, such as bits per index, averaged over the validation split.

    Codes that records bring are taken as they are; of other images the frozen tokenizer makes them.
    The classes are those of the images, none of them left out.

    Args:
      generator: what is measured.
      make_batches: gives labelled batches of a split; "validation" is read.
      seed: of times and noise, where the score has any.
    """

    of: ClassVar[str] = "generator"

    def __init__(self, generator: Generator, make_batches: MakeBatches, *, seed: int = 0):
        self._generator = generator
        self._make_batches = make_batches
        self._key = jax.random.key(seed)
        self.needs = Needs({"validation": 1}, classes=generator.num_classes)
        self.protocol: dict[str, str] = {}
        self._encode = jax.jit(generator.encode)
        self._sum = jax.jit(self._sum_scores)

    @classmethod
    def in_place_of_images(cls, subject: Generator) -> tuple[tuple[str, str], ...]:
        """See `Evaluator`: codes of the generator's tokenizer."""
        return ((subject.codec.name, TOKENIZER),)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Each of the generator's `scores`, and `num_images`.

        Raises:
          ValueError: there are no images.
        """
        del frozen
        totals, count = dict.fromkeys(self._generator.scores, 0.0), 0
        name = self._generator.codec.name
        for number, batch in read(self._make_batches, "validation"):
            code = batch[name] if name in batch else self._encode(weights, batch["images"])
            key = jax.random.fold_in(self._key, number)
            sums = self._sum(weights, code, batch["labels"], batch["mask"], key)
            # Sums over batches in float64.
            totals = {n: total + float(np.float64(to_host(sums[n]))) for n, total in totals.items()}
            count += int(to_host(batch["mask"]).sum())
        results = {name: total / count for name, total in totals.items()}
        self.protocol = {**self._generator.scores, "num_images": "images scored, without padding"}
        return results | {"num_images": float(count)}

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """A table."""
        own = measured.own(name)
        return [Section("Likelihood of held-out codes", results_table(own, self.protocol))]

    def _sum_scores(self, weights, code, labels, mask, key):
        scores = self._generator.score(weights, code, labels, key)
        return {name: jnp.sum(jnp.where(mask, values, 0)) for name, values in scores.items()}
