"""Encoded images of any kind to RGB."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# What Pillow raises on damaged files: an OSError for most (UnidentifiedImageError is one), the
# others from the depths of single formats. A MemoryError is no property of a file and passes.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_rgb(image: bytes | np.ndarray | Image.Image) -> Image.Image:
    """Returns the fully loaded RGB image of any size.

    CMYK, palette, grey and 16-bit grey images are converted; an alpha channel is dropped. The
    orientation tag of EXIF is ignored, as it is by every published ImageNet pipeline.

    Args:
      image: an encoded file, pixels uint8 [H, W] or [H, W, 3 or 4], or a decoded image, of which
        no copy is made if it is RGB.

    Raises:
      one of `UNREADABLE` if the file is empty, truncated or no image.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"pixels are {image.dtype} {image.shape}, not uint8 with content")
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
        image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # convert("RGB") would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
