"""Points of the rate-distortion plane: their names among an evaluator's metrics, and back.

`indices/psnr` is a distortion of the whole code sent as indices, `first_2/indices/psnr` that of two
groups, `means/step_0.5/entropy_bits_per_pixel` a rate of posterior means rounded to half a unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from vqlab.evaluation.names import FIRST, parse_own

RATE_TITLES = {"fixed": "fixed length", "entropy": "ideal static code", "kl": "KL (bits-back)"}
CODING_TITLES = {
    "indices": "indices",
    "samples": "posterior samples",
    "means": "posterior means, rounded",
    "latents": "latents, rounded",
    "concepts": "concepts, rounded",
}

_RATE = "_bits_per_pixel"
_POINT = re.compile(r"([a-z]+)(?:/step_([\d.]+))?/(\w+)")


class Point(NamedTuple):
    """A way of sending the first `kept` units (0: the whole of a code that has none).

    coding: its name. step: of its quantization, 0 without one. rates: {kind: bits per pixel}.
    quality: {metric: value}.
    """

    coding: str
    step: float
    kept: int
    rates: dict[str, float]
    quality: dict[str, float]


def point_name(coding: str, step: float) -> str:
    """What stands before the metric."""
    return f"{coding}/step_{step:g}" if step else coding


def read_points(own: Mapping[str, float]) -> list[Point]:
    """The points among an evaluator's own metrics, in their order.

    Those of a code with units are read from their prefixes, of which the last is the whole.
    """
    points: dict[tuple, Point] = {}
    for name, value in own.items():
        parts = parse_own(name)
        match = _POINT.fullmatch(parts.metric)
        if match is None or parts.way not in ("", FIRST):
            continue
        coding, step, metric = match[1], float(match[2] or 0), match[3]
        empty = Point(coding, step, parts.kept, {}, {})
        point = points.setdefault((coding, step, parts.kept), empty)
        is_rate = metric.endswith(_RATE)
        (point.rates if is_rate else point.quality)[metric.removesuffix(_RATE)] = value
    have_units = {point.coding for point in points.values() if point.kept}
    return [p for p in points.values() if p.kept or p.coding not in have_units]
