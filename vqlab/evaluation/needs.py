"""What an evaluator needs of the images, compared with what there is before anything compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Unmeasurable(ValueError):
    """The data do not allow this measurement, as it turned out; others are not touched by it."""


class Supply(NamedTuple):
    """What a split holds: how many images are read, and of how many classes; 0: no labels."""

    num_images: int
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Needs:
    """What an evaluator needs.

    Attributes:
      num_images: {split: at least so many images}, of every split that it reads.
      side: of the images in pixels, at least.
      labels: whether it tells classes apart, in all its splits the same ones.
      classes: whether images are labelled with some of so many classes; 0: any.
    """

    num_images: Mapping[str, int]
    side: int = 1
    labels: bool = False
    classes: int = 0

    def check_side(self, side: int, name: str) -> None:
        """Raises ValueError if images of `side` pixels, the setting `name`, are too small."""
        if side < self.side:
            raise ValueError(f"{name}={side} is too small to be measured: at least {self.side}")

    def missing(self, supplies: Mapping[str, Supply]) -> str:
        """What the splits lack, in a few words; "" for nothing.

        Splits of unequal numbers of classes do not have the same ones.
        """
        for split, least in self.num_images.items():
            images, classes = supplies[split]
            if images < least:
                return f"the {split} split has {images} of the {least} images that it needs"
            if (self.labels or self.classes) and not classes:
                return f"the {split} split has no labels"
            if self.labels and classes < 2:
                return f"the {split} split has {classes} of the 2 classes that it needs"
            if self.classes and classes > self.classes:
                return f"the {split} split has {classes} classes, of {self.classes} that are known"
        classes = {split: supplies[split].num_classes for split in self.num_images}
        if self.labels and len(set(classes.values())) > 1:
            counts = " and ".join(f"{number} ({split})" for split, number in classes.items())
            return f"the splits have other classes each: {counts}"
        return ""
