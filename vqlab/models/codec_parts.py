"""What codecs have in common, whatever their code is."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from vqlab.models.codec import Units


class NetworkCodec:
    """What the network itself says."""

    module: Any

    stand_in: ClassVar[None] = None

    @property
    def prefixes(self) -> Units:
        """The units."""
        return self.units

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        """Of the first units; see `Codec`."""
        del stand_in
        return self.decode(weights, code, num_kept, key)

    def check_image_size(self, size, name):
        """See `Codec`."""
        self.module.check_image_size(size, name)

    def check_images(self, images):
        """See `Codec`."""
        self.module.check_images(images)


class Continuous:
    """A code of numbers, which is its own vectors."""

    codebook_size: ClassVar[None] = None

    def lookup(self, weights, code):
        """The code itself."""
        del weights
        return code

    def tokens(self, weights, images):
        """The code itself."""
        return self.encode(weights, images)

    def bits(self, height, width):
        """None: continuous."""
        return None


def powers(total: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the total, which ends them."""
    powers = (2**i for i in range(total.bit_length()))
    return (*(k for k in powers if k < total), total)


def check_index_range(indices: np.ndarray, size: int) -> None:
    """Raises ValueError for indices outside 0..size-1."""
    if indices.size and not 0 <= indices.min() <= indices.max() < size:
        raise ValueError(
            f"indices lie in [{indices.min()}, {indices.max()}]; "
            f"this tokenizer's lie in [0, {size - 1}]"
        )


def check_finite(name: str, numbers: np.ndarray) -> None:
    """Raises ValueError for NaN or infinite numbers."""
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} hold NaN or infinite numbers")
