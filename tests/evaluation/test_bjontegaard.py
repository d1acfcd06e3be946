import math

import numpy as np
import pytest

from vqlab.evaluation.bjontegaard import Curve, at_rate, delta, front, mean_and_error


def curve(rates, qualities):
    return Curve(np.array(rates, float), np.array(qualities, float))


def test_lines_are_worked_out_by_hand():
    """Two points are a line over the logarithm: 10 dB a decade, the second one 2 dB above."""
    anchor, better = curve([1, 10], [20, 30]), curve([1, 10], [22, 32])
    found = delta(anchor, better)
    assert found.quality == pytest.approx(2.0)
    # Equal quality 0.2 decades earlier.
    assert found.rate == pytest.approx(100 * (10**-0.2 - 1))
    assert found.interval == pytest.approx((1, 10))
    # Half a decade further, three quarters of a decade long: only what both cover counts.
    shifted = curve([10**0.5, 10**1.25], [24, 31.5])
    found = delta(anchor, shifted)
    assert found.quality == pytest.approx(24 - 25)
    assert found.interval == pytest.approx((10**0.5, 10))
    assert found.rate == pytest.approx(100 * (10**0.1 - 1))


ANCHOR = curve([1358.24, 2486.44, 4593.60, 9487.76], [34.851, 36.845, 38.615, 40.037])
OTHER = curve([1356.24, 2451.52, 4469.00, 9787.80], [34.987, 36.970, 38.651, 40.121])


def test_the_example_of_the_package():
    """Its README's curves, by bjontegaard 1.3.0 with method "pchip"."""
    found = delta(ANCHOR, OTHER)
    assert found.rate == pytest.approx(-4.417485350589045, abs=1e-10)
    assert found.quality == pytest.approx(0.11969278542479489, abs=1e-12)
    found = delta(ANCHOR, curve(OTHER.rates[1:], OTHER.qualities[1:]))
    assert found.rate == pytest.approx(-4.57821650172553, abs=1e-10)
    assert found.quality == pytest.approx(0.10427536535773914, abs=1e-12)


def test_what_does_not_overlap_is_not_extrapolated():
    anchor = curve([1, 10], [20, 30])
    assert delta(anchor, curve([10, 100], [31, 41])) == (None, None, None)
    # Rates overlap, qualities do not: half an answer.
    found = delta(anchor, curve([5, 50], [31, 41]))
    assert found.quality == pytest.approx(31 + 5 * math.log10(2) - (20 + 5 * math.log10(50)))
    assert found.rate is None
    with pytest.raises(ValueError, match="1 point is no curve: a curve has at least 2"):
        delta(anchor, curve([2], [25]))
    assert at_rate(anchor, 0.99) is None and at_rate(anchor, 10.1) is None
    assert at_rate(anchor, 10**0.25) == pytest.approx(22.5)


def test_the_front_is_what_nothing_beats():
    points = [(2, 20), (1, 10), (3, 15), (2, 21), (4, 21), (5, 30), (0, 3), (6, math.nan)]
    found = front(points)
    assert found.rates.tolist() == [1, 2, 5] and found.qualities.tolist() == [10, 21, 30]
    assert len(front([]).rates) == 0


def test_mean_and_standard_error():
    # Deviations -1, 0, 1: standard deviation 1 over the root of three.
    assert mean_and_error([1, 2, 3]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert mean_and_error([5]) == (5.0, None)
