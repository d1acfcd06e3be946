"""Whether samples show the class that was asked for, in the eyes of a simple classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, ClassVar

import numpy as np
from sklearn.svm import SVC

from vqlab.evaluation.batches import MakeBatches, to_host
from vqlab.evaluation.class_samples import ClassSamples
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, format_value, results_table
from vqlab.evaluation.small_images import SmallImages, read_small, shrink
from vqlab.models.codec import Weights
from vqlab.models.generator import Generator
from vqlab.ops.counts import check_count

GUIDED, UNGUIDED, REAL = "recognised", "recognised_unguided", "real_accuracy"
CLASSIFIER = (
    "support vector machine (RBF, C=10), fitted to {fitted} training images of {side} x {side} px"
)


class Recognition(Evaluator):
    """The share of samples that a classifier of the training images calls what was asked for.

    It says nothing of variety: one good image of each class is enough. `neighbours` and the
    likelihood of held-out codes ask for more.

    Args:
      generator: what draws, with classes.
      make_batches: gives labelled batches of a split. All images are held in memory, shrunk.
      classes: which are drawn; () for all.
      num_per_class: samples of each.
      seed: of the samples.
      side: pixels along a side of what is classified.
    """

    of: ClassVar[str] = "generator"

    def __init__(
        self,
        generator: Generator,
        make_batches: MakeBatches,
        *,
        classes: Sequence[int] = (),
        num_per_class: int = 50,
        seed: int = 0,
        side: int = 16,
    ):
        if generator.num_classes < 2:
            raise ValueError(
                "recognition needs a generator of 2 classes or more; this one has "
                f"{generator.num_classes}"
            )
        self._samples = ClassSamples(generator, classes, num_per_class, seed)
        self._sampling = generator.sampling
        self._make_batches = make_batches
        self._side = check_count("side", side, 1, generator.image_size)
        self.needs = Needs(
            {"train": 2, "validation": 1}, labels=True, classes=generator.num_classes
        )
        self.protocol: dict[str, str] = {}
        self.by_class: dict[str, dict[int, float]] = {}

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`recognised` as asked for, `recognised_unguided` where there is guidance to leave out,
        and `real_accuracy` of held-out images; shares in [0, 1].

        After it `by_class` has the same as {metric: {class: share}}.

        Raises:
          ValueError: there are no images, or all of one class.
        """
        del frozen
        train, real = (self._read(split) for split in ("train", "validation"))
        classifier = SVC(C=10.0).fit(*train)
        named = {GUIDED: self._draw(weights, self._sampling)}
        if self._sampling.tokens.is_guided:
            named[UNGUIDED] = self._draw(weights, self._sampling.changed(guidance_scale=1.0))
        named[REAL] = real
        is_right = {
            name: (classifier.predict(images.pixels) == images.labels, images.labels)
            for name, images in named.items()
        }
        self.by_class = {name: _by_class(*pair) for name, pair in is_right.items()}
        texts = self._texts(len(train.labels), len(real.labels))
        self.protocol = {name: texts[name] for name in named}
        return {name: float(np.mean(right)) for name, (right, _) in is_right.items()}

    def summary(self, results: Mapping[str, float]) -> str:
        """See `Evaluator`."""
        text = f"{results[GUIDED]:.1%} of {len(self._samples)} samples are recognised"
        if UNGUIDED in results:
            text += f", {results[UNGUIDED]:.1%} without guidance"
        return f"{text}; of real held-out images {results[REAL]:.1%}"

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The table, and one by class."""
        table = results_table(measured.own(name), self.protocol)
        return [Section("Recognised samples", table + self._class_table())]

    def _read(self, split: str) -> SmallImages:
        return read_small(self._make_batches, split, self._side)

    def _draw(self, weights: Weights, sampling) -> SmallImages:
        pixels, labels = [], []
        for label, images in self._samples.draw(weights, sampling):
            pixels.append(to_host(shrink(images, self._side)))
            labels.append(np.full(len(images), label))
        return SmallImages(np.concatenate(pixels), np.concatenate(labels))

    def _texts(self, fitted: int, held_out: int) -> dict[str, str]:
        classifier = CLASSIFIER.format(fitted=fitted, side=self._side)
        samples = f"share of {len(self._samples)} samples, {self._samples.count} of each class, "
        samples += "that are recognised as what was asked for, "
        scale = self._sampling.tokens.guidance_scale
        return {
            GUIDED: f"{samples}with guidance {scale:g}; {classifier}",
            UNGUIDED: f"{samples}without guidance; the same classifier",
            REAL: f"the same classifier's top-1 accuracy on {held_out} held-out images",
        }

    def _class_table(self) -> str:
        """A row for each class."""
        classes = sorted(set().union(*self.by_class.values()))
        head = "".join(f"<th>{escape(name)}</th>" for name in self.by_class)
        rows = ""
        for label in classes:
            cells = (shares.get(label) for shares in self.by_class.values())
            texts = ("" if share is None else format_value(share) for share in cells)
            rows += f"<tr><td>{label}</td>"
            rows += "".join(f'<td class="number">{text}</td>' for text in texts) + "</tr>\n"
        return f"<table><tr><th>class</th>{head}</tr>\n{rows}</table>" if rows else ""


def _by_class(is_right: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    return {int(label): float(is_right[labels == label].mean()) for label in np.unique(labels)}
