"""Codes of records alone: what second stages are trained on, without a pixel."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from vqlab.data.records import RecordArrays


class CodeSource(RecordArrays):
    """Labels and arrays of records; crops beside them, if there are any, are not read.

    Its batches hold images of one black pixel, which no network takes: nothing can mistake them for
    what was tokenized.
    """

    is_cropped: ClassVar[bool] = True
    has_images: ClassVar[bool] = False
    setting: ClassVar[str] = "path"


@dataclasses.dataclass(frozen=True)
class NoCrop:
    """Stands where a crop would be taken of an image that was not read."""

    size: ClassVar[int] = 1

    def __call__(self, image: None, rng: Any = None) -> np.ndarray:
        """uint8 [1, 1, 3] of zeros."""
        return np.zeros((1, 1, 3), np.uint8)
