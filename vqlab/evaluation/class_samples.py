"""Images that a generator draws of its classes, always the same ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from vqlab.models.codec import Weights
from vqlab.models.generator import NUMBERS_PER_CLASS, Generator, check_labels, draw_images
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.ops.counts import check_count, check_seed


class ClassSamples:
    """Draws images 0..n-1 of each class, those of `vqlab.generate` with this seed.

    Args:
      generator: what draws.
      classes: which; () for as many, evenly spread, as `max_classes`; one without classes.
      num_per_class: n, which are drawn at once.
      seed: of the images.
      max_classes: see above; 0 for all classes.

    Attributes:
      classes: int32 [C], those that are drawn.
      count: n.

    Raises:
      ValueError: a class that there is not, a number out of range, or the generator cannot sample
        by its own settings.
    """

    def __init__(
        self,
        generator: Generator,
        classes: Sequence[int],
        num_per_class: int,
        seed: int,
        max_classes: int = 0,
    ):
        known = max(generator.num_classes, 1)
        spread = np.linspace(0, known - 1, max_classes or known).astype(int)
        self.classes = check_labels(list(classes) or np.unique(spread), generator.num_classes)
        self.count = check_count("num_per_class", num_per_class, 1, NUMBERS_PER_CLASS)
        self._seed = check_seed(seed)
        generator.check_sampling(generator.sampling)
        self._draw = jax.jit(functools.partial(draw_images, generator))

    def __len__(self) -> int:
        """Images in all."""
        return len(self.classes) * self.count

    def draw(
        self, weights: Weights, sampling: GeneratorSampling
    ) -> Iterator[tuple[int, jax.Array]]:
        """(class, its images [n, H, W, 3], not clipped), class after class."""
        for label in map(int, self.classes):
            labels = np.full(self.count, label, np.int32)
            numbers = (label * NUMBERS_PER_CLASS + np.arange(self.count)).astype(np.uint32)
            yield label, self._draw(weights, labels, np.uint32(self._seed), numbers, sampling)[1]
