"""Batches of images of equal size out of sets of mixed ones."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from vqlab.data.corrupt import CorruptRecords, Failure
from vqlab.data.decode import UNREADABLE
from vqlab.data.image_sets import ImageSet

AHEAD = 3  # batches that are read before they are asked for


@dataclasses.dataclass
class SizeBatches:
    """One pass over images, or pairs of them, in batches of one size each.

    Every batch has `batch_size` rows, so that each size is compiled once; the last ones of a size
    are padded. Each process gets its rows of each batch, as of `eval_batches`.

    Attributes:
      sets: the set, or the sets whose images go together.
      rows: (number in each set), one tuple an image or pair.
      batch_size: of the global batch.
      parts, num_parts: see `eval_batches`.
      max_corrupt_share: see `CorruptRecords`.
    """

    sets: Sequence[ImageSet]
    rows: Sequence[tuple[int, ...]]
    batch_size: int
    parts: Sequence[int] = (0,)
    num_parts: int = 1
    max_corrupt_share: float = 0.01

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.num_parts:
            raise ValueError(f"batch size {self.batch_size} does not split into {self.num_parts}")
        self.corrupt = CorruptRecords(len(self.rows), self.max_corrupt_share)

    def jobs(self) -> list[tuple[tuple[int, int], list[tuple[int, ...]]]]:
        """(size, rows) of each batch, the largest images first."""
        by_size: dict[tuple[int, int], list] = {}
        for row in self.rows:
            # One that cannot be read has no size: it goes with any, and is named when it is read.
            sizes = [s.sizes[n] for s, n in zip(self.sets, row, strict=True)]
            by_size.setdefault(max(sizes), []).append(row)
        unread = by_size.pop((0, 0), [])
        largest = sorted(by_size, key=lambda size: (-math.prod(size), size))
        if unread:
            by_size[largest[0]] += unread
        return [
            (size, by_size[size][start : start + self.batch_size])
            for size in largest
            for start in range(0, len(by_size[size]), self.batch_size)
        ]

    def __iter__(self) -> Iterator[dict]:
        """Yields {"images": uint8 [b, H, W, 3], "images1": ... of the second set, "mask": [b]}.

        The mask is False, and the image zero, for padding and where one cannot be read.

        Raises:
          CorruptDataError: too many images cannot be read.
        """
        self.corrupt = CorruptRecords(len(self.rows), self.max_corrupt_share)
        with concurrent.futures.ThreadPoolExecutor(AHEAD) as pool:
            pending: collections.deque = collections.deque()
            for job in self.jobs():
                pending.append(pool.submit(self._read, *job))
                if len(pending) > AHEAD:
                    yield self._checked(pending.popleft().result())
            while pending:
                yield self._checked(pending.popleft().result())

    def _checked(self, batch: dict) -> dict:
        self.corrupt.add(batch.pop("failures"), tried=len(batch["mask"]))
        return batch

    def _read(self, size: tuple[int, int], rows: list[tuple[int, ...]]) -> dict:
        own = self.batch_size // self.num_parts
        places = [part * own + i for part in self.parts for i in range(own)]
        names = ["images", *(f"images{i}" for i in range(1, len(self.sets)))]
        batch = {name: np.zeros((len(places), *size, 3), np.uint8) for name in names}
        mask, failures = np.zeros(len(places), bool), []
        for row, place in enumerate(places):
            if place >= len(rows):
                continue
            read = [self._image(*pair, size) for pair in zip(self.sets, rows[place], strict=True)]
            failures += [x for x in read if isinstance(x, Failure)]
            if not any(isinstance(x, Failure) for x in read):
                mask[row] = True
                for name, pixels in zip(names, read, strict=True):
                    batch[name][row] = pixels
        return batch | {"mask": mask, "failures": failures}

    @staticmethod
    def _image(images: ImageSet, number: int, size: tuple[int, int]) -> np.ndarray | Failure:
        try:
            pixels = images.read(number)
            if pixels.shape != (*size, 3):
                raise ValueError(f"its header says {size}, its pixels are {pixels.shape}")
            return pixels
        except UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            return Failure(number, f"{images.place}: {images.names[number]}", reason)
