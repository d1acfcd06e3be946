"""What callers give is checked: each kind of wrong number has its line."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.models import inputs
from vqlab.ops import counts


@pytest.mark.parametrize("dtype", ["float16", "float64", jnp.bfloat16])
def test_floats_and_bytes_become_float32(dtype):
    images = np.linspace(-1, 1, 12).reshape(1, 2, 2, 3).astype(dtype)
    pixels = inputs.check_pixels(images)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, images.astype(np.float32))
    images = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(inputs.check_pixels(images), [-1, -0.6, 1], atol=1e-7)
    assert inputs.check_pixels(np.zeros((0, 8, 8, 3))).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint16", "complex64", "object", "U3"])
def test_images_of_another_kind_are_refused(dtype):
    for shape in ((1, 2, 2, 3), (0, 2, 2, 3)):
        with pytest.raises(ValueError, match="images are .*; give floats in .* or uint8"):
            inputs.check_pixels(np.zeros(shape).astype(dtype))


@pytest.mark.parametrize("dtype", ["bool", "float32", "complex64", "object", "U3"])
def test_indices_are_integers(dtype):
    with pytest.raises(ValueError, match="indices must be integers, not "):
        inputs.check_indices(np.zeros(3).astype(dtype), 4)
    indices = inputs.check_indices(np.array([0, 3], np.uint64), 4)
    assert indices.dtype == np.int32 and indices.tolist() == [0, 3]


@pytest.mark.parametrize("dtype", ["bool", "complex64", "object", "U3"])
def test_concepts_are_real_and_finite(dtype):
    with pytest.raises(ValueError, match="concepts must be floats, not "):
        inputs.check_real("concepts", np.zeros(3).astype(dtype))
    with pytest.raises(ValueError, match="concepts hold NaN"):
        inputs.check_real("concepts", np.array([0, np.inf], jnp.bfloat16))
    assert inputs.check_real("concepts", np.array([2])).dtype == np.float32


def test_numbers_may_be_those_of_numpy_and_jax():
    for two in (2, 2.0, np.float32(2), jnp.array(2.0), np.array(2)):
        assert inputs.check_number("scale", two) == 2.0
    for pair in ((0, 0.5), [0, 0.5], np.array([0, 0.5]), jnp.array([0, 0.5])):
        assert inputs.check_numbers("interval", pair) == (0.0, 0.5)
    for wrong in (True, 1j, "2", None, [1, 2]):
        with pytest.raises(ValueError, match="scale=.* is no number"):
            inputs.check_number("scale", wrong)
    for wrong in (3, "ab", ("a", "b"), None):
        with pytest.raises(ValueError, match="interval="):
            inputs.check_numbers("interval", wrong)


def test_seeds_are_whole_numbers_of_32_bits():
    """JAX gives 5 and 2**32 + 5 one key."""
    assert counts.check_seed(np.uint32(2**32 - 1)) == 2**32 - 1
    assert counts.check_seed(jnp.array(5)) == 5
    for wrong in (-1, 2**32, 2**64):
        with pytest.raises(ValueError, match=f"seed={wrong} is out of range: choose 0..4294967295"):
            counts.check_seed(wrong)
    for wrong in (1.5, True, "a", None):
        with pytest.raises(ValueError, match="seed=.* is no whole number"):
            counts.check_seed(wrong)
