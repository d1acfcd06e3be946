"""Where methods stand in the rate-distortion plane, against the curve of one of them.

Each run, a method with a seed, gives points; differences are taken between runs of one seed and
averaged over seeds. A curve is the operational one: of all points of a method that are sent the
same way, those that no other beats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vqlab.evaluation.bjontegaard import Curve, at_rate, delta, front, mean_and_error
from vqlab.evaluation.points import Point

# Distortions that a plane is drawn of, those that runs have: title, unit, and whether more is
# better. Of several protocols of one the published one stands here.
DISTORTIONS = {
    "psnr": ("PSNR", "dB", True),
    "ssim": ("SSIM", "", True),
    "lpips": ("LPIPS", "", False),
}

Value = tuple[float, float | None]  # mean and standard error over seeds; None of one seed


class Sample(NamedTuple):
    """The points of one run."""

    arm: str
    family: str
    seed: int
    points: list[Point]


class Mark(NamedTuple):
    """A point of an arm, averaged over its seeds."""

    arm: str
    family: str
    coding: str
    step: float
    kept: int
    is_whole: bool
    rates: dict[str, Value]
    quality: dict[str, Value]
    num_seeds: int


class Way(NamedTuple):
    """What a curve is made of: a coding, and how its rate is counted."""

    coding: str
    rate: str


class Line(NamedTuple):
    """The points of some runs that are sent one way, by a name for people."""

    name: str
    samples: Sequence[Sample]
    way: Way


class Gap(NamedTuple):
    """How much better something is than the anchor, with equal seeds; the difference in words.

    of, way: what. against: the anchor's. metric: of `DISTORTIONS`. quality: mean difference at
    equal rate, above 0 where it is better. rate: mean difference of the rate at equal quality, in
    percent; of a single point None. interval: of the rates that it was taken over. num_seeds:
    those in which there was something to compare. note: why there is nothing; "" otherwise.
    """

    of: str
    way: Way
    against: Way
    metric: str
    quality: Value | None
    rate: Value | None
    interval: tuple[float, float] | None
    num_seeds: int
    note: str


def average(samples: Sequence[Sample]) -> list[Mark]:
    """The points of all arms, each averaged over seeds, in their order."""
    found: dict[tuple, list[Point]] = {}
    families = {sample.arm: sample.family for sample in samples}
    for sample in samples:
        for point in sample.points:
            key = sample.arm, point.coding, point.step, point.kept
            found.setdefault(key, []).append(point)
    most = {}
    for arm, coding, step, kept in found:
        most[arm, coding, step] = max(kept, most.get((arm, coding, step), 0))
    return [
        Mark(
            arm,
            families[arm],
            coding,
            step,
            kept,
            kept == most[arm, coding, step],
            _averaged([point.rates for point in points]),
            _averaged([point.quality for point in points]),
            len(points),
        )
        for (arm, coding, step, kept), points in found.items()
    ]


def _averaged(values: Sequence[dict[str, float]]) -> dict[str, Value]:
    names = set.intersection(*(set(value) for value in values))
    return {name: mean_and_error(x[name] for x in values) for name in values[0] if name in names}


def ways(points: Iterable[Point]) -> list[Way]:
    """In which points are sent, in their order."""
    found = (Way(point.coding, rate) for point in points for rate in point.rates)
    return list(dict.fromkeys(found))


def whole(sample: Sample) -> Sample:
    """Without the prefixes of its codes."""
    most = max((point.kept for point in sample.points), default=0)
    return sample._replace(points=[point for point in sample.points if point.kept == most])


def curve_of(samples: Iterable[Sample], way: Way, metric: str) -> Curve:
    """The operational curve of some runs' points; where less is better, of minus the metric."""
    sign = 1 if DISTORTIONS[metric][2] else -1
    return front(
        (point.rates[way.rate], sign * point.quality[metric])
        for sample in samples
        for point in sample.points
        if point.coding == way.coding and way.rate in point.rates and metric in point.quality
    )


def curve_gap(line: Line, anchor: Line, metric: str) -> Gap:
    """How far a curve lies above that of the anchor, by Bjontegaard's deltas."""
    pairs, reason = [], ""
    for own, other in _by_seed(line, anchor, metric):
        if min(len(own.rates), len(other.rates)) < 2:
            reason = _too_short(own, other)
            continue
        found = delta(other, own)
        if found.quality is None and found.rate is None:
            reason = f"no overlap: {_span(own)} beside {_span(other)}"
        else:
            pairs.append(found)
    qualities = [found.quality for found in pairs if found.quality is not None]
    rates = [found.rate for found in pairs if found.rate is not None]
    intervals = [found.interval for found in pairs if found.interval is not None]
    return Gap(
        line.name,
        line.way,
        anchor.way,
        metric,
        mean_and_error(qualities) if qualities else None,
        mean_and_error(rates) if rates else None,
        (min(a for a, _ in intervals), max(b for _, b in intervals)) if intervals else None,
        len(pairs),
        "" if pairs else reason or "no seed in common",
    )


def point_gap(line: Line, anchor: Line, metric: str) -> Gap:
    """How far a line's best point lies above the anchor's curve, at that point's own rate."""
    gaps, rates, reason = [], [], ""
    for own, other in _by_seed(line, anchor, metric):
        if not len(own.rates) or len(other.rates) < 2:
            reason = _too_short(own, other)
            continue
        rate, quality = own.rates[-1], own.qualities[-1]
        expected = at_rate(other, rate)
        if expected is None:
            reason = f"{rate:.2f} bits per pixel lie outside of {_span(other)}"
        else:
            gaps.append(quality - expected)
            rates.append(float(rate))
    return Gap(
        line.name,
        line.way,
        anchor.way,
        metric,
        mean_and_error(gaps) if gaps else None,
        None,
        (min(rates), max(rates)) if rates else None,
        len(gaps),
        "" if gaps else reason or "no seed in common",
    )


def _by_seed(line: Line, anchor: Line, metric: str) -> Iterable[tuple[Curve, Curve]]:
    """(own curve, the anchor's) for each seed that both have."""
    seeds = [{sample.seed for sample in one.samples} for one in (line, anchor)]
    for seed in sorted(set.intersection(*seeds)):
        own, other = (
            curve_of([x for x in one.samples if x.seed == seed], one.way, metric)
            for one in (line, anchor)
        )
        yield own, other


def _too_short(own: Curve, other: Curve) -> str:
    return "the anchor has no curve" if len(other.rates) < 2 else "one point is no curve"


def _span(curve: Curve) -> str:
    low, high = curve.rates[0], curve.rates[-1]
    return f"{low:.2f} to {high:.2f} bits per pixel"
