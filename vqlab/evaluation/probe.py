"""How much of an image's class the first groups or concepts tell a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vqlab.evaluation import panels
from vqlab.evaluation.batches import MakeBatches, check_split, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.names import first
from vqlab.evaluation.needs import Needs, Unmeasurable
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Codec, Weights

ACCURACY = (
    "top-1 share of {scored} images; logistic regression (L2, C=1) on standardised features of "
    "{fitted} images"
)
CHANCE = "the same of always naming the most frequent class of the fitted images"
MAX_ITERATIONS = 1000


class LinearProbe(Evaluator):
    """Accuracy of a logistic regression on the first k units, side by side.

    Semanticist, section 5.3 and appendix C.3, which leave estimator and regularisation open. A
    concept's features are its D numbers; those of one of MGVQ's groups its codewords' mean over all
    positions.

    Args:
      codec: of the tokenizer.
      make_batches: gives labelled batches of a split. All features are held in memory.
      fit_split: "train", or "validation" to fit on its even images and score on the odd ones. What
        is scored is always "validation".
    """

    def __init__(self, codec: Codec, make_batches: MakeBatches, *, fit_split: str = "train"):
        if not codec.units.levels:
            raise ValueError(
                "a probe needs a tokenizer with groups or concepts to count; this one keeps its "
                "code whole"
            )
        check_split(fit_split)
        self._codec = codec
        self._make_batches = make_batches
        self._fit_split = fit_split
        # Every second image, so that of three two are fitted and one is scored.
        least = {"train": {"train": 2, "validation": 1}, "validation": {"validation": 3}}
        self.needs = Needs(least[fit_split], labels=True)
        self.protocol: dict[str, str] = {}
        self._features = jax.jit(
            lambda weights, images: codec.features(weights, codec.encode(weights, images))
        )

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`probe_accuracy` with everything and under `first_1/`, ...;
        `chance_accuracy`, `num_classes` of the fitted images. Accuracies lie in [0, 1].

        Raises:
          Unmeasurable: there are fewer than two classes to tell apart.
          ValueError: there are no images.
        """
        scored = self._read(weights, "validation")
        if self._fit_split == "validation":
            fitted, scored = [x[0::2] for x in scored], [x[1::2] for x in scored]
        else:
            fitted = self._read(weights, self._fit_split)
        classes, counts = np.unique(fitted[1], return_counts=True)
        if len(classes) < 2:
            raise Unmeasurable(
                f"a probe needs at least 2 classes; the {len(fitted[1])} images of the "
                f"{self._fit_split} split that it is fitted to have {len(classes)}"
            )
        accuracy = {k: _accuracy(fitted, scored, k) for k in self._codec.units.levels}
        chance = float(np.mean(scored[1] == classes[np.argmax(counts)]))
        results = {
            "probe_accuracy": accuracy[self._codec.units.total],
            "chance_accuracy": chance,
            "num_classes": float(len(classes)),
        }
        results |= {first(k, "probe_accuracy"): value for k, value in accuracy.items()}
        text = ACCURACY.format(scored=len(scored[1]), fitted=len(fitted[1]))
        self.protocol = dict.fromkeys(results, text) | {
            "chance_accuracy": CHANCE,
            "num_classes": "classes among the fitted images",
        }
        return results

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """Accuracy over the number kept."""
        own = measured.own(name)
        noun = self._codec.units.noun
        plot = panels.level_plot(
            name,
            measured,
            self._codec.units,
            "probe_accuracy",
            title=f"Linear probe by number of {noun}",
            ylabel="top-1 accuracy",
            baselines=["chance_accuracy"],
        )
        table = panels.results_table(own, self.protocol)
        return [Section("Linear probe", table + panels.row([plot]) + panels.level_table(own, noun))]

    def _read(self, weights: Weights, split: str) -> list[np.ndarray]:
        """[features [N, total, F], labels [N]] of a split, without padding."""
        features, labels = [], []
        for _, batch in read(self._make_batches, split):
            mask = to_host(batch["mask"])
            features.append(to_host(self._features(weights, batch["images"]))[mask])
            labels.append(to_host(batch["labels"])[mask])
        return [np.concatenate(features), np.concatenate(labels)]


def _accuracy(fitted: list[np.ndarray], scored: list[np.ndarray], k: int) -> float:
    """Share of right answers for (features [N, total, F], labels [N]) of the first k units."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    (x, y), (scored_x, scored_y) = (
        (features[:, :k].reshape(len(features), -1), labels)
        for features, labels in (fitted, scored)
    )
    return float(model.fit(x, y).score(scored_x, scored_y))
