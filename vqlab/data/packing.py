"""Whole numbers in as many bits as they need."""

from __future__ import annotations

import math

import numpy as np

MAX_BITS = 31  # numbers are int32


def bits_for(num_values: int) -> int:
    """Bits that tell `num_values` numbers apart, at least one.

    Raises:
      ValueError: there are less than one or more than 2**31.
    """
    if not 1 <= num_values <= 2**MAX_BITS:
        raise ValueError(f"{num_values} values do not lie in 1..2**{MAX_BITS}")
    return max(1, (num_values - 1).bit_length())


def num_packed_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a packed array."""
    return math.ceil(math.prod(shape) * bits / 8)


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Whole numbers of any shape, row after row, `bits` bits each.

    A number's lowest bit comes first, and a byte is filled from its lowest bit; the last byte's
    rest is zero.

    Raises:
      ValueError: a number does not lie in 0..2**bits - 1.
    """
    flat = numbers.reshape(-1).astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < 2**bits:
        raise ValueError(f"numbers in [{flat.min()}, {flat.max()}] do not fit into {bits} bits")
    singles = (flat[:, None] >> np.arange(bits)) & 1
    return np.packbits(singles.astype(np.uint8), bitorder="little").tobytes()


def unpack(packed: bytes, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """The int32 numbers that `pack` made `packed` of.

    Raises:
      ValueError: there are too few or too many bytes.
    """
    if len(packed) != num_packed_bytes(shape, bits):
        raise ValueError(f"{len(packed)} bytes are not {shape} numbers of {bits} bits")
    singles = np.unpackbits(
        np.frombuffer(packed, np.uint8), count=math.prod(shape) * bits, bitorder="little"
    )
    numbers = singles.reshape(-1, bits) @ (1 << np.arange(bits, dtype=np.int32))
    return numbers.astype(np.int32).reshape(shape)
