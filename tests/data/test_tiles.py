import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from vqlab.data.decode import Decoding
from vqlab.data.photos import PhotoSource
from vqlab.data.tiles import TileSource


class Arrays:
    num_classes = 1

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, record):
        return {"image": self.images[record], "label": record}

    def name(self, record):
        return f"image {record}"


def test_raster_order_of_whole_tiles():
    first = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    tiles = TileSource(Arrays(first, first[:3], first[:1]), 3)
    assert [tiles.name(i) for i in range(len(tiles))] == [
        "image 0 at x=0 y=0",
        "image 0 at x=3 y=0",
        "image 1 at x=0 y=0",
        "image 1 at x=3 y=0",
    ]
    np.testing.assert_array_equal(tiles[1]["image"], first[:3, 3:6])
    assert tiles[2]["label"] == 1


def test_held_out_photographs_have_114_tiles_of_64():
    assert len(TileSource(PhotoSource("validation"), 64)) == 9 * 6 + 10 * 6


def test_unreadable_image_keeps_a_place_that_fails():
    tiles = TileSource(Arrays(b"no image"), 3)
    assert len(tiles) == 1
    with pytest.raises(OSError, match="cannot identify"):
        tiles[0]


def test_no_whole_tile_is_an_error():
    with pytest.raises(ValueError, match="no image of 1 holds a whole tile of 64 x 64"):
        TileSource(Arrays(np.zeros((63, 100, 3), np.uint8)), 64)


class Rotated(Arrays):
    decoding = Decoding(exif_rotation=True)


def test_tiles_are_of_the_upright_image():
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 4)).save(file, "PNG", exif=exif)
    names = [TileSource(Rotated(file.getvalue()), 3).name(tile) for tile in range(2)]
    assert names == ["image 0 at x=0 y=0", "image 0 at x=0 y=3"]
