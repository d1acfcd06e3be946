"""Precision and recall by hand; tests/golden has the libraries' values."""

import numpy as np
import pytest

from vqlab.evaluation import precision_recall as pr


def test_on_a_line_by_hand():
    """The third neighbours of 0, 1, 2, 3 lie at 3, 2, 2, 3; of 2, 9, 10, 11 at 9, 7, 8, 9."""
    reference = np.array([[0.0], [1.0], [2.0], [3.0]])
    samples = np.array([[2.0], [9.0], [10.0], [11.0]])
    np.testing.assert_array_equal(pr.squared_radii(reference), [9, 4, 4, 9])
    np.testing.assert_array_equal(pr.squared_radii(samples), [81, 49, 64, 81])
    assert pr.precision_recall(samples, reference) == (0.25, 1.0)


def test_the_surface_counts_and_blocks_change_nothing(monkeypatch):
    reference = np.array([[0.0], [1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(
        pr.inside(np.array([[6.0], [6.1]]), reference, [9, 4, 4, 9]), [1, 0]
    )
    x, y = (np.random.default_rng(i).normal(size=(7 + i, 3)) for i in range(2))
    whole = pr.precision_recall(x, y)
    monkeypatch.setattr(pr, "BLOCK", 3)
    assert pr.precision_recall(x, y) == whole


def test_duplicates_are_their_own_neighbours():
    """A point is left out once, not wherever it lies again."""
    np.testing.assert_array_equal(pr.squared_radii(np.zeros((5, 2))), 0)


def test_too_few_points_are_one_line():
    with pytest.raises(ValueError, match="of 3 neighbours need 4 images or more"):
        pr.squared_radii(np.zeros((3, 2)))
