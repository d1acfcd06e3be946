"""The distance between two Gaussians."""

import logging

import numpy as np
import pytest

from vqlab.evaluation.frechet import frechet_distance
from vqlab.evaluation.moments import Moments


def test_of_independent_features_by_hand():
    """|m|^2 + sum (s - t)^2 of deviations s and t."""
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])
    distance = frechet_distance(np.zeros(3), a, np.array([1.0, 2.0, 0.0]), b)
    np.testing.assert_allclose(distance, 5 + 1 + 0 + 4, rtol=1e-14)


def test_it_is_symmetric_and_zero_to_itself():
    rng = np.random.default_rng(0)
    a, b = (Moments.of(rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))) for _ in range(2))
    of_a, of_b = ((x.mean, x.covariance) for x in (a, b))
    np.testing.assert_allclose(frechet_distance(*of_a, *of_b), frechet_distance(*of_b, *of_a))
    assert frechet_distance(*of_a, *of_a) < 1e-12


@pytest.mark.parametrize("kind", ["few", "dead", "zero"])
def test_a_degenerate_covariance_is_a_number_and_a_warning(kind, caplog, monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5 if kind == "few" else 40, 8))
    rows[:, 3] *= kind != "dead"
    rows *= kind != "zero"
    degenerate = Moments.of(rows)
    whole = Moments.of(rng.normal(size=(40, 8)))
    pairs = ((whole, degenerate), (degenerate, whole), (degenerate, degenerate))
    monkeypatch.setattr(logging.getLogger("vqlab"), "propagate", True)
    for a, b in pairs:
        distance = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        assert np.isfinite(distance) and distance >= 0
        assert (distance < 1e-6) == (a is b)
    assert caplog.text.count("a covariance of 8 features is degenerate") == 3


def test_statistics_that_do_not_fit_are_one_line():
    one, two = (np.zeros(1), np.eye(1)), (np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="statistics of 1 and 2 features cannot be compared"):
        frechet_distance(*one, *two)
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_distance(*two, np.array([0, np.nan]), np.eye(2))
