"""What can be measured of a tokenizer or a generator, by the names that configs give."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax

from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.explained_variance import ExplainedVariance
from vqlab.evaluation.generation import Generation
from vqlab.evaluation.likelihood import Likelihood
from vqlab.evaluation.needs import Unmeasurable
from vqlab.evaluation.neighbours import Neighbours
from vqlab.evaluation.pca import PCABaseline
from vqlab.evaluation.pca_spectrum import ComponentSpectrum
from vqlab.evaluation.probe import LinearProbe
from vqlab.evaluation.protocol_evaluator import ProtocolEvaluator
from vqlab.evaluation.rate_distortion import RateDistortion
from vqlab.evaluation.recognition import Recognition
from vqlab.evaluation.reconstruction import ReconstructionEvaluator
from vqlab.evaluation.samples import Samples
from vqlab.evaluation.spectrum import PowerSpectrum
from vqlab.models.codec import Weights

log = logging.getLogger("vqlab")


class EvaluationError(RuntimeError):
    """An evaluation failed; the message names it and says why, in one line."""


EVALUATORS = {
    "reconstruction": ReconstructionEvaluator,
    "rate_distortion": RateDistortion,
    "protocols": ProtocolEvaluator,
    "explained_variance": ExplainedVariance,
    "spectrum": PowerSpectrum,
    "probe": LinearProbe,
    "pca": PCABaseline,
    "pca_spectrum": ComponentSpectrum,
    "likelihood": Likelihood,
    "samples": Samples,
    "generation": Generation,
    "recognition": Recognition,
    "neighbours": Neighbours,
}
# What measures by protocols, by what is measured.
BY_PROTOCOL = {"tokenizer": "protocols", "generator": "generation"}


def run_evaluators(
    evaluators: Mapping[str, Evaluator], weights: Weights, frozen: Mapping[str, Any]
) -> dict[str, float]:
    """The metrics of all evaluators for one codec's weights, as `EVALUATOR/METRIC`.

    What the data do not allow to measure is left out, with one line.

    Raises:
      EvaluationError: an evaluator failed, or the memory did not suffice.
    """
    results = {}
    for name, evaluator in evaluators.items():
        try:
            measured = evaluator.measure(weights, frozen)
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
