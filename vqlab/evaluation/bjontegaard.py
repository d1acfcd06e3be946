"""Bjontegaard deltas: how far two rate-distortion curves lie apart where both were measured.

Bjontegaard 2001, VCEG-M33, "Calculation of average PSNR differences between RD-curves": the mean
vertical distance over the logarithm of the rate (BD-PSNR, here of any quality) and the mean
horizontal one over the quality (BD-rate). Interpolated piecewise by monotone cubics (PCHIP) as in
JCTVC-L1100 and JVET-T2010, the common test conditions of HEVC and VVC, since his own cubic through
four points swings. Only the common interval counts; nothing is extrapolated.

Equals the package `bjontegaard` 1.3.0 (FAU-LMS, method "pchip"), which is no dependency because it
imports matplotlib's windows, asserts its input, and says in a warning what belongs into the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

LEAST_POINTS = 2  # of a curve


class Curve(NamedTuple):
    """Rates [N] above 0 and qualities [N], both strictly growing; see `front`."""

    rates: np.ndarray
    qualities: np.ndarray


class Delta(NamedTuple):
    """What a curve gains on its anchor; None where their intervals have nothing in common.

    quality: mean difference at equal rate, above 0 where it is better. rate: mean difference at
    equal quality in percent, below 0 where it saves bits. interval: of the rates that `quality` is
    over, None without one.
    """

    quality: float | None
    rate: float | None
    interval: tuple[float, float] | None


def front(points: Iterable[tuple[float, float]]) -> Curve:
    """Of (rate, quality) those that no other beats in both: the operational curve.

    What costs nothing has no place on a logarithmic axis and is left out, as is what is not finite.
    """
    rates, qualities = [], []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        is_better = not qualities or quality > qualities[-1]
        if rate > 0 and np.isfinite([rate, quality]).all() and is_better:
            rates.append(rate)
            qualities.append(quality)
    return Curve(np.array(rates), np.array(qualities))


def delta(anchor: Curve, curve: Curve) -> Delta:
    """What `curve` gains on `anchor`.

    Raises:
      ValueError: one of them is a single point, or none.
    """
    for name, one in (("anchor", anchor), ("curve", curve)):
        if len(one.rates) < LEAST_POINTS:
            raise ValueError(f"{len(one.rates)} point is no {name}: a curve has at least 2")
    own, other = np.log10(curve.rates), np.log10(anchor.rates)
    quality, over = _mean_gap(other, anchor.qualities, own, curve.qualities)
    log_rate, _ = _mean_gap(anchor.qualities, other, curve.qualities, own)
    return Delta(
        quality,
        None if log_rate is None else 100 * (10**log_rate - 1),
        None if over is None else (10 ** over[0], 10 ** over[1]),
    )


def at_rate(curve: Curve, rate: float) -> float | None:
    """The quality of a curve at a rate; None outside of what was measured."""
    if len(curve.rates) < LEAST_POINTS or not curve.rates[0] <= rate <= curve.rates[-1]:
        return None
    return float(PchipInterpolator(np.log10(curve.rates), curve.qualities)(np.log10(rate)))


def mean_and_error(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and its standard error over independent runs; None of one alone."""
    values = np.array(list(values), float)
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _mean_gap(x, y, own_x, own_y) -> tuple[float | None, tuple[float, float] | None]:
    """(mean of the second function less the first over what both cover, this interval)."""
    low, high = max(x[0], own_x[0]), min(x[-1], own_x[-1])
    if not low < high:
        return None, None
    curves = PchipInterpolator(x, y), PchipInterpolator(own_x, own_y)
    area, own_area = (float(curve.integrate(low, high)) for curve in curves)
    return (own_area - area) / (high - low), (float(low), float(high))
