import numpy as np
import pytest

from vqlab.evaluation import codebook_use


def test_codes_of_two_groups_by_hand():
    indices = np.array([[0, 0], [0, 2], [2, 1]])
    np.testing.assert_array_equal(codebook_use.joint_codes(indices, 3), [0, 2, 7])
    codebooks = np.arange(6.0).reshape(2, 3, 1)
    words = codebook_use.joint_codewords(codebooks)
    np.testing.assert_array_equal(words[[0, 2, 7]], [[0, 3], [0, 5], [2, 4]])


def test_use_by_hand():
    """Three of four codes, twice as many tokens with one: 2 ** 1.5; a quarter of the variance."""
    tokens = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    found = codebook_use.measure(tokens, tokens / 2, np.array([[0], [1], [3], [1]]), 4)
    assert found == {
        "usage": 0.75,
        "perplexity": pytest.approx(2**1.5),
        "distortion": pytest.approx(0.25),
    }
