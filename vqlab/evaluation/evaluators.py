"""What can be measured of a tokenizer, by the names that configs give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vqlab.evaluation.explained_variance import ExplainedVariance
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.pca import PCABaseline
from vqlab.evaluation.probe import LinearProbe
from vqlab.evaluation.reconstruction import ReconstructionEvaluator
from vqlab.evaluation.spectrum import PowerSpectrum


class Evaluator(Protocol):
    """Built as `EVALUATORS[name](ladder, make_batches, **arguments)`; see `batches.MakeBatches`.

    Attributes:
      protocol: {metric: how it was measured, in one line}, of the last `run`.
    """

    protocol: dict[str, str]

    def run(self, params: Any, variables: Any, frozen: Mapping[str, Any]) -> dict[str, float]:
        """{metric: value} of a tokenizer with these weights.

        Metrics with the first k units kept are named NOUN_k/METRIC. Raises ValueError where the
        data do not allow to measure.
        """

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """What the report shows of it, where `name` is its name in `measured`."""


EVALUATORS = {
    "reconstruction": ReconstructionEvaluator,
    "explained_variance": ExplainedVariance,
    "spectrum": PowerSpectrum,
    "probe": LinearProbe,
    "pca": PCABaseline,
}
