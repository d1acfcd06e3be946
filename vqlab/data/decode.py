"""Encoded images of any kind to RGB."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

# What Pillow raises on damaged files: an OSError for most (UnidentifiedImageError is one), the
# others from the depths of single formats. A MemoryError is that of an image too large to hold.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
ALPHAS = ("drop", "white")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How encoded images become RGB.

    The bounds are Pillow's own by default, which guard against files that are small but decode to
    more than a machine's memory.

    Attributes:
      alpha: "drop" takes the colours as they are stored, those of transparent pixels too; "white"
        lays them over white.
      exif_rotation: whether the orientation tag of EXIF is obeyed. No published ImageNet pipeline
        does.
      max_pixels: of an image; a larger one counts as unreadable.
      max_metadata_bytes: of a colour profile or a text inside a PNG file; one with more counts as
        unreadable. All texts of a file may have 64 times as many.
    """

    alpha: str = "drop"
    exif_rotation: bool = False
    max_pixels: int = 178_956_970
    max_metadata_bytes: int = 1_048_576

    def __post_init__(self):
        if self.alpha not in ALPHAS:
            raise ValueError(f"alpha is {self.alpha!r}; choose from {', '.join(ALPHAS)}")
        for name in ("max_pixels", "max_metadata_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")

    def changes(self) -> dict[str, str | bool | int]:
        """What differs from the defaults, which older records were made with."""
        return {n: x for n, x in dataclasses.asdict(self).items() if x != getattr(PLAIN, n)}

    def size(self, image: bytes | np.ndarray | Image.Image) -> tuple[int, int]:
        """(width, height) of what `decode_rgb` gives; of an encoded file reads only the header.

        Raises:
          one of `UNREADABLE`, as `decode_rgb`.
        """
        if isinstance(image, np.ndarray):
            return image.shape[1], image.shape[0]
        if isinstance(image, Image.Image):
            return image.size
        opened = self._open(image)
        is_on_its_side = self.exif_rotation and _orientation(opened) >= 5
        return opened.size[::-1] if is_on_its_side else opened.size

    def load(self, image: bytes) -> Image.Image:
        """The decoded image of any mode, upright if asked for.

        Raises:
          one of `UNREADABLE`, as `decode_rgb`.
        """
        opened = self._open(image)
        try:
            opened.load()
        except ValueError as error:  # texts may stand behind the pixels
            raise self._named(error) from error
        turn = _TURNS.get(_orientation(opened)) if self.exif_rotation else None
        loaded = _eight_bits(opened)
        return loaded if turn is None else loaded.transpose(turn)

    def _open(self, image: bytes) -> Image.Image:
        # Pillow's bounds are the process's. It warns above this one and refuses above twice of it.
        allowed = Image.MAX_IMAGE_PIXELS
        if allowed is not None and self.max_pixels > 2 * allowed:
            Image.MAX_IMAGE_PIXELS = self.max_pixels
        PngImagePlugin.MAX_TEXT_CHUNK = self.max_metadata_bytes
        PngImagePlugin.MAX_TEXT_MEMORY = 64 * self.max_metadata_bytes
        try:
            opened = Image.open(io.BytesIO(image))
        except (ValueError, Image.DecompressionBombError) as error:
            raise self._named(error) from error
        if opened.width * opened.height > self.max_pixels:
            raise self._above("max_pixels", f"{opened.width} x {opened.height} pixels")
        return opened

    def _named(self, error: Exception) -> Exception:
        """The error, with the setting that raises a bound of Pillow's."""
        if isinstance(error, Image.DecompressionBombError):
            return self._above("max_pixels", str(error))
        if "MAX_TEXT_" in str(error):
            return self._above("max_metadata_bytes", str(error))
        return error

    def _above(self, name: str, what: str) -> ValueError:
        return ValueError(f"more than config.data.decoding.{name}={getattr(self, name)}: {what}")


PLAIN = Decoding()


def decoding_of(source) -> Decoding:
    """How the images of a source are decoded; most say nothing."""
    return getattr(source, "decoding", PLAIN)


def decode_rgb(image: bytes | np.ndarray | Image.Image, decoding: Decoding = PLAIN) -> Image.Image:
    """Returns the fully loaded RGB image of any size.

    CMYK, palette and grey images are converted. Grey of 16 bits is scaled to 8, and so are floats
    in [0, 1]; of other floats and of integers of 32 bits nobody can say what is white.

    Args:
      image: an encoded file, pixels uint8 [H, W] or [H, W, 3 or 4], or a decoded image, of which
        no copy is made if it is RGB.
      decoding: what to do with alpha and rotation, and what is too large.

    Raises:
      one of `UNREADABLE` if the file is empty, truncated, too large, no image, or one of numbers
      without a known range.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"pixels are {image.dtype} {image.shape}, not uint8 with content")
        image = Image.fromarray(image)
    elif isinstance(image, bytes):
        image = decoding.load(image)
    else:
        image = _eight_bits(image)
    if decoding.alpha == "white" and image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1 is upright."""
    if image.format == "TIFF":  # whose own tag Pillow obeys by itself
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Numbers of more than 8 bits as grey; convert("RGB") would clip at 255 instead of scaling."""
    is_scaled = image.mode == "I" and image.format == "PPM"  # by Pillow, to 16 bits
    if image.mode.startswith("I;16") or is_scaled:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        raise ValueError("integers of 32 bits have no known range; store 8 or 16 bits")
    if image.mode != "F":
        return image
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # nor NaN
        raise ValueError(f"floats are {values.min()} to {values.max()}, not in 0..1")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
