import numpy as np
import pytest

from vqlab.data.packing import bits_for, num_packed_bytes, pack, unpack


def test_bits_for_a_codebook():
    sizes = {1: 1, 2: 1, 3: 2, 16: 4, 17: 5, 8192: 13, 8193: 14, 2**31: 31}
    assert {size: bits_for(size) for size in sizes} == sizes
    for size in (0, 2**31 + 1):
        with pytest.raises(ValueError, match=f"{size} values do not lie in 1..2"):
            bits_for(size)


@pytest.mark.parametrize("bits", [1, 5, 8, 13, 31])
def test_numbers_come_back(bits):
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (4, 3, 2), np.int32)
    numbers[0, 0] = [0, 2**bits - 1]
    packed = pack(numbers, bits)
    assert len(packed) == num_packed_bytes((4, 3, 2), bits) == -(-24 * bits // 8)
    np.testing.assert_array_equal(unpack(packed, (4, 3, 2), bits), numbers)
    assert unpack(packed, (4, 3, 2), bits).dtype == np.int32


def test_the_lowest_bit_comes_first():
    assert pack(np.array([1, 2, 3, 0, 1]), 2) == bytes([0b00_11_10_01, 0b01])


def test_what_does_not_fit():
    for numbers in ([0, 32], [-1, 3]):
        with pytest.raises(ValueError, match="do not fit into 5 bits"):
            pack(np.array(numbers), 5)
    with pytest.raises(ValueError, match=r"3 bytes are not \(3,\) numbers of 5 bits"):
        unpack(bytes(3), (3,), 5)
