import io

import numpy as np
import pytest
from PIL import Image

from vqlab.data.decode import UNREADABLE, decode_rgb


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_formats_keep_size_and_colour(kind):
    image = decode_rgb(encoded(Image.new("RGB", (20, 10), (200, 30, 60)), kind))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    np.testing.assert_allclose(np.asarray(image)[5, 10], (200, 30, 60), atol=6)


@pytest.mark.parametrize(
    ("mode", "kind", "colour", "expected"),
    [
        ("L", "PNG", 90, (90, 90, 90)),
        ("LA", "PNG", (90, 10), (90, 90, 90)),
        ("RGBA", "PNG", (10, 20, 30, 0), (10, 20, 30)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (254, 0, 0)),
        ("I;16", "PNG", 0x80FF, (0x80, 0x80, 0x80)),
    ],
)
def test_modes_become_rgb(mode, kind, colour, expected):
    image = decode_rgb(encoded(Image.new(mode, (16, 16), colour), kind))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[8, 8], expected, atol=3)


def test_palette_with_transparency_becomes_its_colours():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 12, 34, 56])
    decoded = decode_rgb(encoded(image, "PNG", transparency=b"\xff\x00"))
    assert decoded.getpixel((0, 0)) == (12, 34, 56)


def test_pixels_are_taken_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(decode_rgb(pixels)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_files_are_unreadable(kind):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    for length in (0, 3, 60, len(whole) // 2):
        with pytest.raises(UNREADABLE):
            decode_rgb(whole[:length])


@pytest.mark.parametrize("image", [b"no image", np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4))])
def test_what_is_no_image_is_unreadable(image):
    with pytest.raises(UNREADABLE):
        decode_rgb(image)
