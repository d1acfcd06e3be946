"""Which crops of an image networks run over, to store what they make of each.

Every kind of views has `size`, pixels along a side, `num_views` of an image, `describe()`, its
settings in JSON types, and `of_image(image, record)`: a function from the number of a view, 0 to
`num_views` - 1, to uint8 [size, size, 3]. An image is opened once for all its views.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vqlab.data.examples import VIEW
from vqlab.data.transforms import CenterCrop, TrainTransform

Crop = Callable[[int], np.ndarray]


class Views(Protocol):
    """See above."""

    size: int
    num_views: int

    def of_image(self, image: Image.Image, record: int) -> Crop:
        """The crops of an RGB image of any size, which is number `record` of its source."""

    def describe(self) -> dict[str, Any]:
        """In JSON types."""


@dataclasses.dataclass(frozen=True)
class CenterViews:
    """The centre crop of each image, and its mirror image if asked for.

    Attributes:
      size: side of the crops in pixels.
      flip: whether there is a second view, the first one mirrored horizontally.
    """

    size: int
    flip: bool = False

    @property
    def num_views(self) -> int:
        """Crops of each image."""
        return 2 if self.flip else 1

    def of_image(self, image: Image.Image, record: int) -> Crop:
        """See `Views`."""
        del record
        pixels = CenterCrop(self.size)(image)
        return lambda view: pixels[:, ::-1] if view else pixels

    def describe(self) -> dict[str, Any]:
        """In JSON types."""
        return {"crop": "center", "flip": self.flip}


@dataclasses.dataclass(frozen=True)
class RandomViews:
    """Several augmented crops of each image, which follow from (seed, record, view) alone.

    Attributes:
      transform: of training.
      num_views: crops of each image.
      seed: of the augmentation.
    """

    transform: TrainTransform
    num_views: int
    seed: int

    def __post_init__(self):
        if self.num_views < 1:
            raise ValueError(f"there are {self.num_views} random views; choose 1 or more")

    @property
    def size(self) -> int:
        """Side of the crops in pixels."""
        return self.transform.size

    def of_image(self, image: Image.Image, record: int) -> Crop:
        """See `Views`."""

        def crop(view: int) -> np.ndarray:
            return self.transform(image, np.random.default_rng([self.seed, record, view, VIEW]))

        return crop

    def describe(self) -> dict[str, Any]:
        """In JSON types."""
        rule = dataclasses.asdict(self.transform)
        return {"crop": "random", "num_views": self.num_views, "seed": self.seed, **rule}


@dataclasses.dataclass(frozen=True)
class TenCropViews:
    """Four corners and the centre of a larger centre crop, and their mirror images.

    LlamaGen's views (extract_codes_c2i.py, --ten-crop), on which MGVQ's second stage is trained:
    ADM's centre crop of int(scale * size) pixels, then torchvision's TenCrop(size). The scale is
    1.1 there, `--crop-range`, and 1.05 of a second set, "ten_crop_105", from which every second
    image is taken: with (1.1, 1.05) each image has twenty views, of which all are as likely.

    Views are numbered scale after scale, each in torchvision's order: corners top left, top right,
    bottom left, bottom right, the centre, and the five mirrored horizontally.

    Attributes:
      size: side of the crops in pixels.
      scales: sides of the centre crops, in sizes; at least 1.
    """

    size: int
    scales: tuple[float, ...] = (1.1,)

    def __post_init__(self):
        for scale in self.scales:
            if not 1 <= scale < float("inf"):
                raise ValueError(f"ten crops at {scale} times the size: choose 1 or more")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales {self.scales} of ten crops must be some, each once")

    @property
    def num_views(self) -> int:
        """Ten for each scale."""
        return 10 * len(self.scales)

    def of_image(self, image: Image.Image, record: int) -> Crop:
        """See `Views`."""
        del record

        @functools.cache
        def larger(number: int) -> np.ndarray:
            return CenterCrop(int(self.size * self.scales[number]))(image)

        def crop(view: int) -> np.ndarray:
            number, view = divmod(view, 10)
            mirrored, place = divmod(view, 5)
            return _five_crop(larger(number), self.size, place)[:, :: -1 if mirrored else 1]

        return crop

    def describe(self) -> dict[str, Any]:
        """In JSON types."""
        facts = {"crop": "ten", "flip": True, "num_views": self.num_views}
        return facts | {"scales": list(self.scales)}


def _five_crop(pixels: np.ndarray, size: int, place: int) -> np.ndarray:
    """Crop `place` of torchvision's FiveCrop of square pixels [S, S, 3]."""
    end = len(pixels) - size
    middle = round(end / 2)  # to the even one where it lies between two
    top, left = ((0, 0), (0, end), (end, 0), (end, end), (middle, middle))[place]
    return pixels[top : top + size, left : left + size]
