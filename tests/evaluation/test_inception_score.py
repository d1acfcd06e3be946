"""Inception Score by hand; tests/golden has the libraries' values."""

import numpy as np
import pytest

from vqlab.evaluation.inception_score import chunk_scores, split_scores


def test_certain_and_even_predictions_are_the_classes_and_one():
    certain = np.eye(4)[np.arange(40) % 4] * 1e4  # softmax underflows to zeros
    np.testing.assert_allclose(split_scores(certain, splits=1), 4)
    np.testing.assert_allclose(chunk_scores(certain, 20), 4)
    np.testing.assert_allclose(split_scores(np.ones((40, 4))), 1)


def test_the_order_and_the_cuts_decide_about_parts():
    certain = np.eye(2)[np.repeat([0, 1], 10)] * 1e4
    np.testing.assert_allclose(split_scores(certain, splits=2, seed=None), [1, 1])
    assert split_scores(certain, splits=2).mean() > 1.5  # shuffled first
    assert len(chunk_scores(certain, 8)) == 3  # the last one is shorter


def test_too_few_images_are_one_line():
    with pytest.raises(ValueError, match="9 images do not split into 10 parts"):
        split_scores(np.ones((9, 2)))
    with pytest.raises(ValueError, match="needs images"):
        chunk_scores(np.ones((0, 2)))
