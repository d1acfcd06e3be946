import io
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from vqlab.data.decode import UNREADABLE, Decoding, decode_rgb


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
        ("I", "PPM", 0x80FF, (0x80, 0x80, 0x80)),
        ("F", "TIFF", 0.25, (64, 64, 64)),
        ("L", "BMP", 90, (90, 90, 90)),
        ("L", "GIF", 90, (90, 90, 90)),
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


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("F", 200.0, r"floats are 200\.0 to 200\.0, not in 0\.\.1"),
        ("F", -0.1, "not in 0..1"),
        ("F", float("nan"), "floats are nan to nan"),
        ("I", 40_000, "integers of 32 bits have no known range"),
    ],
)
def test_numbers_without_a_known_range_are_unreadable(mode, value, message):
    """They became all black or all white."""
    file = encoded(Image.new(mode, (4, 4), value), "TIFF")
    with pytest.raises(ValueError, match=message):
        decode_rgb(file)


WHITE = Decoding(alpha="white")


@pytest.mark.parametrize(
    ("mode", "colour", "over_white"),
    [
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (100, 0, 50, 51), (224, 204, 214)),  # a fifth of the colour
        ("LA", (90, 0), (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
    ],
)
def test_transparent_pixels_lie_over_white_if_asked_for(mode, colour, over_white):
    image = Image.new(mode, (4, 4), colour)
    assert decode_rgb(encoded(image, "PNG"), WHITE).getpixel((0, 0)) == over_white
    if mode == "RGBA":
        assert decode_rgb(np.asarray(image), WHITE).getpixel((0, 0)) == over_white
        assert decode_rgb(np.asarray(image)).getpixel((0, 0)) == colour[:3]


@pytest.mark.parametrize(("mode", "clear"), [("P", b"\xff\x00"), ("L", 1), ("RGB", (1, 1, 1))])
def test_colours_that_are_declared_transparent_lie_over_white(mode, clear):
    image = Image.new(mode, (4, 4), (1, 1, 1) if mode == "RGB" else 1)
    if mode == "P":
        image.putpalette([0, 0, 0, 1, 1, 1])
    file = encoded(image, "PNG", transparency=clear)
    assert decode_rgb(file, WHITE).getpixel((0, 0)) == (255, 255, 255)
    assert decode_rgb(file).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_is_as_pillow_does_it_if_asked_for(kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = encoded(Image.fromarray(pixels), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    rotating = Decoding(exif_rotation=True)
    np.testing.assert_array_equal(decode_rgb(file, rotating), upright.convert("RGB"))
    assert rotating.size(file) == upright.size
    if kind != "TIFF":  # whose orientation is a tag of its own, which Pillow obeys
        assert decode_rgb(file).size == Decoding().size(file) == (24, 16)


def with_text(num_bytes):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * num_bytes, zip=True)
    return encoded(Image.new("RGB", (4, 4)), "PNG", pnginfo=info)


def test_large_colour_profiles_and_texts_are_read_where_the_setting_allows():
    for file in (
        with_text(3_000_000),
        encoded(Image.new("RGB", (4, 4)), "PNG", icc_profile=bytes(3_000_000)),
    ):
        with pytest.raises(ValueError, match=r"data\.decoding\.max_metadata_bytes=1048576: "):
            decode_rgb(file)
        assert decode_rgb(file, Decoding(max_metadata_bytes=4_000_000)).size == (4, 4)


def test_the_bound_on_pixels_is_a_setting():
    file = encoded(Image.new("1", (13, 7)), "PNG")
    for few in (10, 50, 90):
        with pytest.raises(ValueError, match=rf"data\.decoding\.max_pixels={few}: .*(13|91)"):
            decode_rgb(file, Decoding(max_pixels=few))
    assert decode_rgb(file, Decoding(max_pixels=91)).size == (13, 7)


def test_an_image_above_the_default_bound_is_read_where_the_setting_allows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # as Pillow has it
    file = encoded(Image.new("1", (2**14, 11_000)), "PNG")
    with pytest.raises(ValueError, match="max_pixels=178956970"):
        Decoding().size(file)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    with warnings.catch_warnings(action="error"):
        assert Decoding(max_pixels=200_000_000).size(file) == (2**14, 11_000)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": "black"}, "alpha is 'black'; choose from drop, white"),
        ({"max_pixels": 0}, "max_pixels is 0, must be at least 1"),
        ({"max_metadata_bytes": -1}, "max_metadata_bytes is -1"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**setting)


def test_only_what_was_changed_is_written_down():
    assert Decoding().changes() == {}
    assert Decoding(alpha="white", max_pixels=9).changes() == {"alpha": "white", "max_pixels": 9}


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
