"""Pictures that a generator draws: a grid with a row for each class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, ClassVar

import numpy as np

from vqlab.evaluation import figures, panels
from vqlab.evaluation.batches import MakeBatches, to_host
from vqlab.evaluation.class_samples import ClassSamples
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Weights
from vqlab.models.generator import Generator

MAX_ROWS = 8  # of classes that nobody chose
MIN_WIDTH = 64  # pixels of an image on the page


class Samples(Evaluator):
    """Draws a few images of a few classes as the generator does by default, always the same ones.

    After `measure`, `images` [classes, n, H, W, 3] holds them (NumPy, in [-1, 1] but for a
    decoder's overshoot).

    Args:
      generator: what draws.
      make_batches: not read.
      classes: which; () for as many, evenly spread, as fit 8 rows; one row without classes.
      num_per_class: n.
      seed: of the images.
    """

    of: ClassVar[str] = "generator"
    picture_file: ClassVar[str] = "samples.png"
    needs = Needs({})

    def __init__(
        self,
        generator: Generator,
        make_batches: MakeBatches,
        *,
        classes: Sequence[int] = (),
        num_per_class: int = 4,
        seed: int = 0,
    ):
        del make_batches
        self._samples = ClassSamples(generator, classes, num_per_class, seed, MAX_ROWS)
        self._sampling = generator.sampling
        self.protocol: dict[str, str] = {}
        self.images = np.zeros((0, 0, 0, 0, 3), np.float32)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`images_per_second`, which counts compiling at first, and pictures."""
        del frozen
        start = time.perf_counter()
        drawn = self._samples.draw(weights, self._sampling)
        self.images = np.stack([to_host(images) for _, images in drawn])
        seconds = time.perf_counter() - start
        self.protocol = {
            "images_per_second": "images drawn a second of wall clock, in batches of "
            f"{self._samples.count}, compilation included where it came first; "
            + self._sampling.text
        }
        return {"images_per_second": len(self._samples) / seconds}

    def pictures(self, results: Mapping[str, float]) -> tuple | None:
        """A row for each class, in the place of originals and reconstructions; see `Evaluator`."""
        if not len(self.images):
            return None
        columns = self.images.swapaxes(0, 1)
        headings = [f"sample {n}" for n in range(len(columns))]
        return columns[0], columns[1:], headings

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The grid, with the number of the class beside each row."""
        rows = ""
        for label, images in zip(self._samples.classes, self.images, strict=False):
            tiles = "".join(
                panels.image_tag(figures.image_png(image, MIN_WIDTH), f"class {label}, sample {n}")
                for n, image in enumerate(images)
            )
            rows += f"<figure><figcaption>class {escape(str(label))}</figcaption>{tiles}</figure>\n"
        table = panels.results_table(measured.own(name), self.protocol)
        return [Section("Samples", table + rows if rows else "")]
