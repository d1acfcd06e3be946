"""What can be measured of a tokenizer, by the names that configs give."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from vqlab.evaluation.explained_variance import ExplainedVariance
from vqlab.evaluation.needs import Needs, Unmeasurable
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.pca import PCABaseline
from vqlab.evaluation.probe import LinearProbe
from vqlab.evaluation.reconstruction import ReconstructionEvaluator
from vqlab.evaluation.spectrum import PowerSpectrum

log = logging.getLogger("vqlab")


class EvaluationError(RuntimeError):
    """An evaluation failed; the message names it and says why, in one line."""


class Evaluator(Protocol):
    """Built as `EVALUATORS[name](ladder, make_batches, **arguments)`; see `batches.MakeBatches`.

    Attributes:
      needs: what it needs of the images, known before anything is read.
      protocol: {metric: how it was measured, in one line}, of the last `run`.
    """

    needs: Needs
    protocol: dict[str, str]

    def run(self, params: Any, variables: Any, frozen: Mapping[str, Any]) -> dict[str, float]:
        """{metric: value} of a tokenizer with these weights.

        Metrics with the first k units kept are named NOUN_k/METRIC.

        Raises:
          Unmeasurable: the images that can be read do not allow it, on all processes alike.
          ValueError: what else is wrong with the data.
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


def run_evaluators(
    evaluators: Mapping[str, Evaluator], params: Any, variables: Any, frozen: Mapping[str, Any]
) -> dict[str, float]:
    """The metrics of all evaluators for one tokenizer's weights, as `EVALUATOR/METRIC`.

    What the data do not allow to measure is left out, with one line.

    Raises:
      EvaluationError: an evaluator failed, or the memory did not suffice.
    """
    results = {}
    for name, evaluator in evaluators.items():
        try:
            measured = evaluator.run(params, variables, frozen)
        except Unmeasurable as error:
            evaluator.protocol = {}
            log_left_out(name, error)
            continue
        except (ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
            if (reason := _reason(error)) is None:
                raise
            raise EvaluationError(f"evaluation {name!r} failed: {reason}") from error
        results |= {f"{name}/{metric}": value for metric, value in measured.items()}
    return results


def log_left_out(name: str, reason: Any) -> None:
    """One line, of process 0, that the evaluator `name` is left out."""
    if jax.process_index() == 0:
        log.warning("evaluation %r is left out: %s", name, reason)


def _reason(error: Exception) -> str | None:
    """Why an evaluation failed, in one line; None where another process may be the reason."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    if isinstance(error, MemoryError):
        return f"out of memory {text}".rstrip()
    return f"out of device memory: {text[:200]}" if "RESOURCE_EXHAUSTED" in text else None
