"""Measures of one set of images against another, by name: what each takes, and its numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vqlab.evaluation.frechet import frechet_distance
from vqlab.evaluation.inception_score import SPLITS, chunk_scores, split_scores
from vqlab.evaluation.kernel_distance import kernel_distance, subset_distances, subset_rows
from vqlab.evaluation.precision_recall import NEIGHBOURS, precision_recall
from vqlab.evaluation.protocols import Protocol
from vqlab.evaluation.summary import Collector, Summary

log = logging.getLogger("vqlab")

POOLED, SPATIAL, LOGITS = "2048", "spatial", "logits_unbiased"
NUM_SUBSETS, SUBSET = 100, 1000  # torch-fidelity's

# Below, FID is mostly bias: Heusel et al. ask for more images than features.
FEW_IMAGES = 2048


class SetMeasure(NamedTuple):
    """A measure.

    compute: (samples, reference, protocol) -> {metric: value}. moments, rows: features that it
    takes, of both sides. of_samples: rows that it takes of the samples alone. least: images.
    """

    compute: Callable[[Summary, Summary, Protocol], dict[str, float]]
    moments: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    of_samples: tuple[str, ...] = ()
    least: int = 2


def _frechet(metric: str, feature: str) -> Callable:
    def compute(samples: Summary, reference: Summary, protocol: Protocol) -> dict[str, float]:
        pair = reference.gaussians[feature], samples.gaussians[feature]
        return {metric: frechet_distance(*pair[0], *pair[1])}

    return compute


def _kid(samples: Summary, reference: Summary, protocol: Protocol) -> dict[str, float]:
    x, y = samples.rows[POOLED], reference.rows[POOLED]
    # Reconstructions and their originals depend on each other in pairs: where there are as many on
    # both sides, leaving out i = j keeps the estimate free of bias, and a set is at 0 from itself.
    estimate = "u-statistic" if len(x) == len(y) else "unbiased"
    values = {"kid": kernel_distance(x, y, estimate=estimate)}
    if min(len(x), len(y)) >= SUBSET:
        drawn = subset_rows(len(x), len(y), subsets=NUM_SUBSETS, size=SUBSET)
        found = subset_distances(x, y, *drawn)
        values |= {"kid_subsets": float(found.mean()), "kid_subsets_std": float(found.std())}
    return values


def _score(samples: Summary, reference: Summary, protocol: Protocol) -> dict[str, float]:
    logits = samples.rows[LOGITS]
    chunk = protocol.score_chunk
    scores = chunk_scores(logits, chunk) if chunk else split_scores(logits)
    return {"is": float(scores.mean()), "is_std": float(scores.std())}


def _precision_recall(samples: Summary, reference: Summary, protocol: Protocol) -> dict[str, float]:
    values = precision_recall(samples.rows[POOLED], reference.rows[POOLED])
    return dict(zip(("precision", "recall"), values, strict=True))


SET_MEASURES = {
    "fid": SetMeasure(_frechet("fid", POOLED), moments=(POOLED,)),
    "sfid": SetMeasure(_frechet("sfid", SPATIAL), moments=(SPATIAL,)),
    "kid": SetMeasure(_kid, rows=(POOLED,)),
    "is": SetMeasure(_score, of_samples=(LOGITS,), least=SPLITS),
    "pr": SetMeasure(_precision_recall, rows=(POOLED,), least=NEIGHBOURS + 1),
}


def collector(measures: Iterable[str], *, of_samples: bool) -> Collector:
    """What takes in all that measures need of the samples, or of the reference.

    Those that are not of sets need nothing. Beside FID the features of few images are kept too.
    """
    measures = tuple(name for name in measures if name in SET_MEASURES)
    chosen = [SET_MEASURES[name] for name in measures]
    rows = [name for measure in chosen for name in measure.rows]
    if of_samples:
        rows += [name for measure in chosen for name in measure.of_samples]
    moments = [name for measure in chosen for name in measure.moments]
    of_few = (POOLED,) if "fid" in measures else ()
    return Collector(dict.fromkeys(moments), dict.fromkeys(rows), of_few, FEW_IMAGES)


def lacking(reference: Summary, measures: Iterable[str]) -> list[str]:
    """Those of the measures that need more of a reference than is known of it."""
    chosen = {name: SET_MEASURES[name] for name in measures if name in SET_MEASURES}
    return [
        name
        for name, measure in chosen.items()
        if not set(measure.moments) <= set(reference.gaussians)
        or not set(measure.rows) <= set(reference.rows)
    ]


def compare(
    samples: Summary, reference: Summary, protocol: Protocol, measures: Iterable[str]
) -> dict[str, float]:
    """{metric: value} of those of the measures that are of sets; of few images KID beside FID.

    One that there are too few images for is left out, with a line.

    Raises:
      ValueError: the reference lacks what a measure takes.
    """
    measures = [name for name in dict.fromkeys(measures) if name in SET_MEASURES]
    if lacks := lacking(reference, measures):
        raise ValueError(
            f"{', '.join(lacks)}: the reference's statistics do not hold what is needed; give its "
            f"images, or statistics written with --measures={','.join(lacks)}"
        )
    if "fid" in measures and bias_note(samples, reference) and not _lacks_rows(samples, reference):
        measures = dict.fromkeys([*measures, "kid"])
    values, least = {}, min(samples.count, reference.count or samples.count)
    for name in measures:
        if least < SET_MEASURES[name].least:
            log.warning("%s is left out: %d images are too few for it", name, least)
            continue
        values |= SET_MEASURES[name].compute(samples, reference, protocol)
    return values


def _lacks_rows(*sides: Summary) -> bool:
    return any(POOLED not in side.rows for side in sides)


def bias_note(samples: Summary, reference: Summary) -> str:
    """What to say beside FID of few images; "" of enough."""
    least = min(samples.count, reference.count or samples.count)
    if least >= FEW_IMAGES:
        return ""
    return f"; biased upwards, of {least} images, fewer than {FEW_IMAGES}: look at KID"
