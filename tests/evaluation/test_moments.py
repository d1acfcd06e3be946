"""Moments of features that come in batches."""

import functools

import numpy as np
import pytest

from vqlab.evaluation.moments import Moments


def test_batches_and_hosts_merge_to_the_whole():
    rows = np.random.default_rng(0).normal(5, 2, (23, 4)).astype(np.float32)
    hosts = [rows[:10], rows[10:]]
    parts = [
        functools.reduce(Moments.add, np.array_split(host, 3), Moments.empty(4)) for host in hosts
    ]
    whole = parts[0].merge(parts[1]).merge(Moments.empty(4))
    assert whole.count == 23
    np.testing.assert_allclose(whole.mean, rows.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-12)


def test_a_large_mean_cancels_nothing():
    rows = np.random.default_rng(0).normal(0, 1, (50, 3))
    far = functools.reduce(Moments.add, np.array_split(rows + 1e8, 5), Moments.empty(3))
    np.testing.assert_allclose(far.covariance, np.cov(rows.T), rtol=1e-6)


def test_one_row_has_no_covariance():
    one = Moments.of(np.ones((1, 2)))
    np.testing.assert_array_equal(one.mean, 1)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = one.covariance
