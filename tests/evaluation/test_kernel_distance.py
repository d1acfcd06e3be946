"""KID by hand; tests/golden has the libraries' values."""

import numpy as np
import pytest

from vqlab.evaluation import kernel_distance as kid


def test_of_two_points_on_each_side_by_hand():
    """One feature: the kernel of x and y is (x y + 1)^3."""
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    between = (1 + 1 + 8 + 27) / 4
    np.testing.assert_allclose(kid.kernel_distance(x, y), 1 + 27 - 2 * between)
    biased = (1 + 1 + 1 + 8) / 4 + (8 + 27 + 27 + 125) / 4 - 2 * between
    np.testing.assert_allclose(kid.kernel_distance(x, y, estimate="biased"), biased)
    statistic = 1 + 27 - 2 * (1 + 8) / 2
    np.testing.assert_allclose(kid.kernel_distance(x, y, estimate="u-statistic"), statistic)


def test_blocks_change_nothing(monkeypatch):
    x, y = (np.random.default_rng(i).normal(size=(7 + i, 3)) for i in range(2))
    whole = kid.kernel_distance(x, y)
    monkeypatch.setattr(kid, "BLOCK", 3)
    np.testing.assert_allclose(kid.kernel_distance(x, y), whole, rtol=1e-12)


def test_it_is_unbiased():
    """Halves of one set are as far from each other as nothing, on average."""
    rng = np.random.default_rng(0)
    distances = [kid.kernel_distance(*rng.normal(size=(2, 10, 4))) for _ in range(300)]
    deviation = np.std(distances) / np.sqrt(len(distances))
    assert abs(np.mean(distances)) < 4 * deviation


def test_errors_name_the_numbers():
    x, y = np.ones((3, 2)), np.ones((4, 2))
    with pytest.raises(ValueError, match="at least 2 images on both sides, got 1 and 4"):
        kid.kernel_distance(x[:1], y)
    with pytest.raises(ValueError, match="as many of both, got 3 and 4"):
        kid.kernel_distance(x, y, estimate="u-statistic")
    with pytest.raises(ValueError, match="subsets of 4 are larger than sets of 3 and 4"):
        kid.subset_rows(3, 4, subsets=1, size=4)
    with pytest.raises(ValueError, match="choose from unbiased, biased, u-statistic"):
        kid.kernel_distance(x, y, estimate="exact")
