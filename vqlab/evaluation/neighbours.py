"""Whether samples are copies: how far each is from the training image nearest to it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neighbors import NearestNeighbors

from vqlab.evaluation import figures
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.class_samples import ClassSamples
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, figure, results_table, row
from vqlab.evaluation.small_images import read_small, shrink
from vqlab.models.codec import Weights
from vqlab.models.generator import Generator, image_keys
from vqlab.ops.counts import check_count

SAMPLES, REAL, COPIES = "distance", "distance_of_real", "distance_of_copies"
MAX_SHOWN = 10


class Pair(NamedTuple):
    """A sample of a class [H, W, 3] in [-1, 1], the training image nearest to it, the distance."""

    label: int
    sample: np.ndarray
    nearest: np.ndarray
    distance: float


class Neighbours(Evaluator):
    """The distance of samples to the nearest training image, between two others to compare with.

    A generator that repeats what it was trained on draws the tokenizer's reconstructions of
    training images: their distance is that of copies. One that learnt what those have in common
    draws images that are about as far from them as held-out images are.

    Args:
      generator: what draws.
      make_batches: gives batches of a split. All images are held in memory, shrunk; those shown are
        read once more.
      classes: which are drawn; () for all.
      num_per_class: samples of each.
      seed: of the samples.
      side: pixels along a side of what is compared.
    """

    of: ClassVar[str] = "generator"

    def __init__(
        self,
        generator: Generator,
        make_batches: MakeBatches,
        *,
        classes: Sequence[int] = (),
        num_per_class: int = 10,
        seed: int = 0,
        side: int = 16,
    ):
        self._generator, self._sampling = generator, generator.sampling
        self._samples = ClassSamples(generator, classes, num_per_class, seed)
        self._make_batches = make_batches
        self._side = check_count("side", side, 1, generator.image_size)
        self.needs = Needs({"train": 1, "validation": 1})
        self.protocol: dict[str, str] = {}
        self.pairs: list[Pair] = []
        self._rebuild = jax.jit(self._rebuilt)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Medians of `distance`, `distance_of_real` held-out images and `distance_of_copies`.

        After it `pairs` holds the first sample of each class, of at most `MAX_SHOWN`.

        Raises:
          ValueError: there are no images.
        """
        del frozen
        train, real = (read_small(self._make_batches, s, self._side) for s in self.needs.num_images)
        index = NearestNeighbors(n_neighbors=1).fit(train.pixels)
        distances, shown = [], []
        for label, images in self._samples.draw(weights, self._sampling):
            away, numbers = self._nearest(index, to_host(shrink(images, self._side)))
            distances.append(away)
            shown.append((label, to_host(images)[0], numbers[0], away[0]))
        shown, copies = shown[:MAX_SHOWN], self._copies(weights)
        originals = self._pick([number for _, _, number, _ in shown])
        self.pairs = [Pair(c, image, originals[n], away) for c, image, n, away in shown]
        self._describe(len(train.labels), len(real.labels), len(copies))
        return {
            SAMPLES: float(np.median(np.concatenate(distances))),
            REAL: float(np.median(self._nearest(index, real.pixels)[0])),
            COPIES: float(np.median(self._nearest(index, copies)[0])),
        }

    def summary(self, results: Mapping[str, float]) -> str:
        """See `Evaluator`."""
        return (
            f"samples are {results[SAMPLES]:.3f} from the nearest training image, real held-out "
            f"images {results[REAL]:.3f}, copies {results[COPIES]:.3f}"
        )

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The table, and some samples over what is nearest to each."""
        table = results_table(measured.own(name), self.protocol)
        shown = "samples, each over the training image nearest to it, and their distance"
        strip = row([figure(self._strip(), shown)]) if self.pairs else ""
        return [Section("Nearest training images", table + strip)]

    def _nearest(self, index: NearestNeighbors, pixels: np.ndarray) -> tuple:
        """(distances, numbers of the nearest training images), each [N]."""
        distances, numbers = index.kneighbors(pixels)
        return distances[:, 0] / pixels.shape[1] ** 0.5, numbers[:, 0]

    def _copies(self, weights: Weights) -> np.ndarray:
        """The first batch of training images as the tokenizer rebuilds them, shrunk."""
        _, batch = next(iter(read(self._make_batches, "train")))
        return to_host(self._rebuild(weights, batch["images"]))[to_host(batch["mask"])]

    def _rebuilt(self, weights: Weights, images: jax.Array) -> jax.Array:
        code = self._generator.encode(weights, images)
        keys = image_keys(0, jnp.arange(len(images)))
        made = self._generator.decode(weights, code, keys, self._sampling)
        return shrink(made, self._side)

    def _pick(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Training images [H, W, 3] in [-1, 1] by their numbers."""
        found, start = {}, 0
        for _, batch in read(self._make_batches, "train"):
            images = to_host(batch["images"])[to_host(batch["mask"])]
            own = [number for number in numbers if start <= number < start + len(images)]
            found |= {number: images[number - start] for number in own}
            start += len(images)
        return found

    def _strip(self) -> bytes:
        """A column for each pair."""
        columns = np.stack([np.stack([pair.sample, pair.nearest]) for pair in self.pairs])
        headings = [f"class {pair.label}\n{pair.distance:.3f}" for pair in self.pairs]
        buffer = io.BytesIO()
        figures.write_grid_png(buffer, columns[0], columns[1:], headings)
        return buffer.getvalue()

    def _describe(self, fitted: int, held_out: int, copies: int) -> None:
        text = (
            f"root mean square difference from the nearest of {fitted} training images, as "
            f"{self._side} x {self._side} px in [0, 1]; median of "
        )
        self.protocol = {
            SAMPLES: f"{text}{len(self._samples)} samples",
            REAL: f"{text}{held_out} held-out images",
            COPIES: f"{text}{copies} of these, rebuilt by the tokenizer",
        }
