import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops.pixel_shuffle import (
    average_channels,
    duplicate_channels,
    pixel_shuffle,
    pixel_unshuffle,
)


def test_channel_order_is_pytorchs():
    # One channel, one 2x2 block: offsets (0,0), (0,1), (1,0), (1,1) become channels 0..3.
    block = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(pixel_unshuffle(block, 2).reshape(-1), [1, 2, 3, 4])
    # Two channels: all four offsets of channel 0 come before those of channel 1.
    two = jnp.concatenate([block, block + 10], axis=-1)
    np.testing.assert_array_equal(pixel_unshuffle(two, 2).reshape(-1), [1, 2, 3, 4, 11, 12, 13, 14])


@pytest.mark.parametrize("factor", [2, 3])
def test_shuffle_undoes_unshuffle(factor):
    x = jnp.arange(2 * 6 * 12 * 5, dtype=jnp.float32).reshape(2, 6, 12, 5)
    packed = pixel_unshuffle(x, factor)
    assert packed.shape == (2, 6 // factor, 12 // factor, 5 * factor**2)
    np.testing.assert_array_equal(pixel_shuffle(packed, factor), x)


def test_shortcuts_average_runs_and_repeat_in_place():
    x = jnp.array([1.0, 3.0, 10.0, 20.0])
    np.testing.assert_array_equal(average_channels(x, 2), [2, 15])
    np.testing.assert_array_equal(duplicate_channels(jnp.array([1.0, 2.0]), 4), [1, 1, 2, 2])


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="sides 3x4 are no multiples of 2"):
        pixel_unshuffle(jnp.zeros((1, 3, 4, 1)), 2)
    with pytest.raises(ValueError, match=r"6 channels are no multiple of 2\*2"):
        pixel_shuffle(jnp.zeros((1, 3, 4, 6)), 2)
    with pytest.raises(ValueError, match="6 channels do not average into 4"):
        average_channels(jnp.zeros((1, 6)), 4)
    with pytest.raises(ValueError, match="6 channels do not duplicate into 8"):
        duplicate_channels(jnp.zeros((1, 6)), 8)
