"""The 1,797 handwritten digits inside scikit-learn's wheel."""

import functools

import numpy as np
from PIL import Image

from vqlab.data.source import Source

MARGIN = 1  # pixels around a digit, so that crops may be shifted without cutting it
SIDE = 40  # of an enlarged digit
_HELD_OUT = 5  # every so many digits one is kept from training


class DigitSource(Source):
    """1,437 digits to train on, and every fifth, 360, to validate on; labelled by what they show.

    scikit-learn's `load_digits`: the test part of Alpaydin and Kaynak's Optical Recognition of
    Handwritten Digits (UCI, 1998; CC BY 4.0), 8 x 8 pixels of 17 greys. Here each has a margin of
    one pixel and is enlarged to 40 x 40 pixels, bicubic. Digits of one hand lie in both splits.

    Raises:
      ValueError: an unknown split.
    """

    num_classes = 10

    def __init__(self, split: str = "train"):
        numbers = np.arange(len(_digits()[1]))
        is_held_out = numbers % _HELD_OUT == 0
        splits = {"train": numbers[~is_held_out], "validation": numbers[is_held_out]}
        if split not in splits:
            raise ValueError(f"the digits have no split {split!r}; known: {list(splits)}")
        self._numbers = splits[split]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, record: int) -> dict:
        """{"image": uint8 [40, 40, 3], "label": 0..9}."""
        pixels, labels = _digits()
        number = self._numbers[record]
        return {"image": _enlarged(pixels[number]), "label": int(labels[number])}

    def name(self, record: int) -> str:
        """Its number among all 1,797."""
        return f"digit {self._numbers[record]}"


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(greys [1797, 8, 8] in 0..16, labels [1797]); read once a process."""
    # Imported here because most runs read no digits.
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def _enlarged(greys: np.ndarray) -> np.ndarray:
    """[8, 8] in 0..16 -> uint8 [40, 40, 3]."""
    pixels = np.pad(np.rint(greys * (255 / 16)).astype(np.uint8), MARGIN)
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("RGB"))
