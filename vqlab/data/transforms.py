"""Decoded images to crops: random for training, centred for evaluation, or stored before."""

import dataclasses
import math

import numpy as np
from PIL import Image

MAX_CROPS = 64  # that are resized around a centre crop, at most


def to_float(images_u8: np.ndarray) -> np.ndarray:
    """uint8 pixels to float32 in [-1, 1]: x / 127.5 - 1."""
    images = np.divide(images_u8, np.float32(127.5), dtype=np.float32)
    images -= 1
    return images


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"crop size is {size}, must be at least 1")


def _resized_crop(
    image: Image.Image, short: int, size: int, left: float, top: float
) -> Image.Image:
    """Resizes the shorter side to `short`, then takes a `size` x `size` crop.

    Only the crop is computed. Bicubic with antialiasing, after a box reduction of what is at
    least twice too large (as in ADM), so that the cost does not grow with the image.

    Args:
      left, top: where the crop lies between the edges, each in [0, 1].
    """
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    x = math.floor(left * (width - size) + 0.5)
    y = math.floor(top * (height - size) + 0.5)
    if (width, height) == image.size:
        return image.crop((x, y, x + size, y + size))
    box = _source_box(image, width, height, size, x, y)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _source_box(
    image: Image.Image, width: int, height: int, size: int, x: int, y: int
) -> tuple[float, float, float, float]:
    """Where in the image the `size` x `size` crop at x, y of its resized copy comes from."""
    step_x, step_y = image.width / width, image.height / height  # source pixels per pixel
    return (
        x * step_x,
        y * step_y,
        min((x + size) * step_x, image.width),
        min((y + size) * step_y, image.height),
    )


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Random scale, random crop, random flip: LlamaGen's tokenizer recipe by default.

    The shorter side is resized to a uniform integer in [size * min_scale, size * max_scale].

    Attributes:
      size: side of the crop in pixels.
      min_scale, max_scale: shorter side before cropping, relative to `size`; at least 1. The
        published recipe is 1 to 1.25 (crops of 0.8 to 1 of the shorter side).
      flip: mirror every second image, at random, horizontally.
      upscale: whether the random scale may enlarge an image beyond its own resolution. False
        with a large `max_scale` gives crops at up to native resolution; equally large scales
        give native crops only. An image smaller than the crop is enlarged either way.
      recolour: 0 leaves colours as they are. Above, up to 1, the channels are put in random order,
        and the range of each shrinks by up to this share, to a random place within 0..255: few
        photographs then teach all colours.
    """

    size: int
    min_scale: float = 1.0
    max_scale: float = 1.25
    flip: bool = True
    upscale: bool = True
    recolour: float = 0.0

    def __post_init__(self):
        _check_size(self.size)
        if not 0 <= self.recolour <= 1:
            raise ValueError(f"recolour={self.recolour} is no share; choose 0..1")
        if not 1 <= self.min_scale <= self.max_scale:
            raise ValueError(
                f"scales are min_scale={self.min_scale}, max_scale={self.max_scale};"
                " they must satisfy 1 <= min_scale <= max_scale"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]."""
        low, high = (math.ceil(self.size * scale) for scale in (self.min_scale, self.max_scale))
        if not self.upscale:
            native = max(self.size, min(image.size))
            low, high = min(low, native), min(high, native)
        short = int(rng.integers(low, high, endpoint=True))
        left, top, flip = rng.random(3)
        pixels = np.asarray(_resized_crop(image, short, self.size, left, top))
        if self.flip and flip < 0.5:
            pixels = pixels[:, ::-1]
        return _recoloured(pixels, self.recolour, rng) if self.recolour else pixels


def _recoloured(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """See `TrainTransform.recolour`; uint8 [H, W, 3] -> the same."""
    kept = 1 - share * rng.random(3)
    lowest = 255 * (1 - kept) * rng.random(3)
    return np.rint(pixels[..., rng.permutation(3)] * kept + lowest).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """ADM's centre crop (guided-diffusion, image_datasets.py `center_crop_arr`).

    The image is halved with a box filter while its shorter side is at least twice `size`, then
    resized bicubically to a shorter side of `size`, then cropped in the middle. Of an image more
    than `MAX_CROPS` times as long as wide only the crop is computed, equal up to rounding: 60000 x
    1 pixels would be resized to 4 billion.

    Attributes:
      size: side of the crop in pixels.
    """

    size: int

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]; `rng` is not used."""
        while min(image.size) >= 2 * self.size:
            halves = (image.width // 2, image.height // 2)
            image = image.resize(halves, Image.Resampling.BOX)
        scale = self.size / min(image.size)
        sides = tuple(round(side * scale) for side in image.size)
        place = tuple((side - self.size) // 2 for side in sides)
        return _cropped(image, sides, place, self.size, Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True)
class CoverCrop:
    """MGVQ's centre crop (eval_recon.py): bicubic until the shorter side is `size`, in one step.

    Attributes:
      size: side of the crop in pixels.
    """

    size: int

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]; `rng` is not used."""
        scale = self.size / min(image.size)
        sides = tuple(max(self.size, round(side * scale)) for side in image.size)
        place = tuple((side - self.size) // 2 for side in sides)
        return _cropped(image, sides, place, self.size, Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True)
class TorchvisionCrop:
    """torchvision's Resize(size) and CenterCrop(size), of which the references of RCG are made.

    Bilinear with antialiasing; the longer side is cut to a whole number, the place of the crop is
    rounded to an even one where it lies between two.

    Attributes:
      size: side of the crop in pixels.
    """

    size: int

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]; `rng` is not used."""
        short = min(image.size)
        sides = tuple(int(self.size * side / short) for side in image.size)
        place = tuple(round((side - self.size) / 2) for side in sides)
        return _cropped(image, sides, place, self.size, Image.Resampling.BILINEAR)


def _cropped(
    image: Image.Image,
    sides: tuple[int, int],
    place: tuple[int, int],
    size: int,
    filter_: Image.Resampling,
) -> np.ndarray:
    """`size` x `size` pixels at `place` (x, y) of the image resized to `sides`.

    Of what is very long only the crop is computed, equal but at its edges; see `CenterCrop`.
    """
    x, y = place
    if max(sides) > MAX_CROPS * size:
        box = _source_box(image, *sides, size, x, y)
        return np.asarray(image.resize((size, size), filter_, box=box))
    return np.asarray(image.resize(sides, filter_).crop((x, y, x + size, y + size)))


# Centre crops by the names that protocols give.
CROPS = {"adm": CenterCrop, "cover": CoverCrop, "torchvision": TorchvisionCrop}


@dataclasses.dataclass(frozen=True)
class StoredCrop:
    """Takes a crop as it is, for records whose arrays were made of this very crop.

    Attributes:
      size: side of the crop in pixels.
    """

    size: int

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """RGB image [size, size] -> uint8 [size, size, 3]; `rng` is not used.

        Raises:
          ValueError: an image of another size.
        """
        if image.size != (self.size, self.size):
            raise ValueError(
                f"a stored crop is {image.width}x{image.height}, not {self.size}x{self.size}"
            )
        return np.asarray(image)
