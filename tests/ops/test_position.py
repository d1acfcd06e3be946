import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops.position import sincos_table, time_features


def test_the_table_by_hand():
    """8 channels: column sines and cosines of frequencies 1 and 1/100, then the row's."""
    table = sincos_table(2, 3, 8)
    assert table.shape == (6, 8) and table.dtype == np.float32
    row, column = 1, 2
    expected = [
        *np.sin([column, column / 100]),
        *np.cos([column, column / 100]),
        *np.sin([row, row / 100]),
        *np.cos([row, row / 100]),
    ]
    np.testing.assert_allclose(table[row * 3 + column], expected, rtol=1e-6)


def test_channels_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match="6 channels of a position table are no multiple of 4"):
        sincos_table(2, 2, 6)


def test_times_are_cosines_then_sines():
    features = time_features(jnp.array([0.0, 500.0]), 4)
    np.testing.assert_array_equal(features[0], [1, 1, 0, 0])
    expected = [np.cos(500), np.cos(5), np.sin(500), np.sin(5)]
    np.testing.assert_allclose(features[1], expected, atol=1e-5)
