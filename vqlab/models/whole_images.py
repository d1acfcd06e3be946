"""A codec for whole images of any size, where the network takes multiples of a stride."""

from __future__ import annotations

from typing import Any

import numpy as np

from vqlab.models.codec import Codec
from vqlab.models.padding import pad_to_stride
from vqlab.ops.pixels import as_floats


class WholeImages:
    """A codec that pads images to its stride before it encodes them; see `pad_to_stride`.

    Everything else is the codec's own: what it decodes is as large as the padded images.
    """

    def __init__(self, codec: Codec):
        self._codec = codec
        self._stride = codec.sizes.get("stride", 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_codec"], name)

    def encode(self, weights, images):
        """See `Codec`; sides may be any."""
        return self._codec.encode(weights, pad_to_stride(as_floats(images), self._stride))

    def check_images(self, images) -> None:
        """See `Codec`."""
        batch, *sides, channels = images.shape
        padded = (side + -side % self._stride for side in sides)
        shape = (batch, *padded, channels)
        self._codec.check_images(np.broadcast_to(np.float32(0), shape))  # takes no memory
