import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops.counts import check_count, check_kept


def test_whole_numbers_in_range_pass():
    assert check_count("n", 0, 0, 4) == 0 and check_count("n", np.int64(4), 0, 4) == 4
    for four in (np.array(4), jnp.array(4)):
        assert type(check_count("n", four, 0, 4)) is int and check_kept("n", four, 4) == 4
    assert check_count("n", 10**9, 1) == 10**9
    assert check_kept("n", None, 4) == 4 and check_kept("n", 0, 4) == 0


@pytest.mark.parametrize("value", [2.5, 2.0, True, "2", None, float("nan")])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=f"n={value!r} is no whole number: choose 0..4"):
        check_count("n", value, 0, 4)


def test_arrays_are_named_on_one_line():
    with pytest.raises(ValueError, match=r"n=array\(\[\[0., 0.\], \[0., 0.\]\]\) is no whole"):
        check_count("n", np.zeros((2, 2)), 0, 4)


@pytest.mark.parametrize("value", [-1, 5])
def test_what_is_out_of_range_is_named(value):
    with pytest.raises(ValueError, match=f"n={value} is out of range: choose 0..4"):
        check_count("n", value, 0, 4)
    with pytest.raises(ValueError, match="n=0 is out of range: at least 1"):
        check_count("n", 0, 1)
