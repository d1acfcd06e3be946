"""Every whole tile of a few images, each as a record of its own."""

import numpy as np

from vqlab.data.decode import UNREADABLE, decode_rgb, decoding_of
from vqlab.data.source import Source


class TileSource(Source):
    """The non-overlapping `size` x `size` tiles of every image, in raster order.

    Evaluates all pixels of few photographs (a rest at the right and lower edge is left out). Image
    sizes are read at construction, so this is for small sources. An unreadable image keeps a place
    as one tile; reading it fails and is named and counted.

    Args:
      source: a source of images.
      size: side of a tile in pixels.

    Raises:
      ValueError: no image holds a whole tile.
    """

    def __init__(self, source, size: int):
        if size < 1:
            raise ValueError(f"tile size is {size}, must be at least 1")
        self._source = source
        self._size = size
        self._tiles = [
            (record, x, y)
            for record in range(len(source))
            for x, y in _corners(source, record, size)
        ]
        if not self._tiles:
            raise ValueError(f"no image of {len(source)} holds a whole tile of {size} x {size}")
        self.num_classes = source.num_classes

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, tile: int) -> dict:
        """{"image": uint8 [size, size, 3], "label": the image's label}."""
        record, x, y = self._tiles[tile]
        fields = self._source[record]
        image = decode_rgb(fields["image"], decoding_of(self._source))
        image = image.crop((x, y, x + self._size, y + self._size))
        return {"image": np.asarray(image), "label": fields["label"]}

    def name(self, tile: int) -> str:
        """The image's name and the tile's upper left corner."""
        record, x, y = self._tiles[tile]
        return f"{self._source.name(record)} at x={x} y={y}"


def _corners(source, record: int, size: int) -> list[tuple[int, int]]:
    """Upper left corners of an image's tiles, row by row."""
    try:
        width, height = decoding_of(source).size(source[record]["image"])
    except UNREADABLE:
        return [(0, 0)]
    return [
        (x, y) for y in range(0, height - size + 1, size) for x in range(0, width - size + 1, size)
    ]
