"""Example number `position` of a run, and rows of a batch: pure functions that workers call."""

import dataclasses
from typing import NamedTuple

import numpy as np

from vqlab.data.corrupt import Failure
from vqlab.data.decode import UNREADABLE, decode_rgb

MAX_REPLACEMENTS = 64

# Independent random streams of one seed.
AUGMENTATION, REPLACEMENT, ORDER = range(3)


class Example(NamedTuple):
    """`pixels` is uint8 [H, W, 3], or None where there is no image."""

    pixels: np.ndarray | None
    label: int
    failures: tuple[Failure, ...]


class TrainExamples:
    """Training examples by position in the endless shuffled order.

    Every epoch is a permutation of its own. The record, the augmentation and, for a corrupt
    record, the replacement follow from (seed, position) alone.

    Args:
      source, transform: see `train_batches`.
      seed: of order, augmentation and replacements.
    """

    def __init__(self, source, transform, seed: int):
        self._source = source
        self._transform = transform
        self._seed = seed
        self._epoch = (-1, None)

    def record_at(self, position: int) -> int:
        """The record that the shuffled order holds at a position."""
        number, place = divmod(position, len(self._source))
        epoch, order = self._epoch
        if epoch != number:
            # Drawn whole: 10 MB and 0.1 s for ImageNet, once an epoch and reader. grain's shuffle
            # needs no memory, but takes 4 ms for each record of a set as small as ten.
            rng = np.random.default_rng([self._seed, number, ORDER])
            order = rng.permutation(len(self._source))
            self._epoch = (number, order)
        return int(order[place])

    def __call__(self, position: int) -> Example:
        """Raises nothing for corrupt records: another one stands in, the failures are listed."""
        record = self.record_at(position)
        failures = []
        spare = None
        for _ in range(1 + MAX_REPLACEMENTS):
            image, label, failure = _read(self._source, record)
            if failure is None:
                rng = np.random.default_rng([self._seed, position, AUGMENTATION])
                return Example(self._transform(image, rng), label, tuple(failures))
            failures.append(failure)
            spare = spare or np.random.default_rng([self._seed, position, REPLACEMENT])
            record = int(spare.integers(len(self._source)))
        return Example(None, 0, tuple(failures))


class EvalExamples:
    """The first `count` records in order; positions beyond them are empty (padding)."""

    def __init__(self, source, transform, count: int):
        self._source = source
        self._transform = transform
        self._count = count

    def __call__(self, position: int) -> Example:
        """A corrupt record is empty too, and listed."""
        if position >= self._count:
            return Example(None, 0, ())
        image, label, failure = _read(self._source, position)
        if failure is not None:
            return Example(None, 0, (failure,))
        return Example(self._transform(image, None), label, ())


def _read(source, record: int):
    """(RGB image, label, None), or (None, 0, failure) for a corrupt record."""
    try:
        fields = source[record]
        return decode_rgb(fields["image"]), fields["label"], None
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        return None, 0, Failure(int(record), source.name(record), reason)


@dataclasses.dataclass(frozen=True)
class BatchRows:
    """One process's rows of a global batch.

    Global batch b holds the positions start + b * batch_size onwards; process p of P has the
    p-th of P contiguous parts, so the batch put together is the same for every P.

    Attributes:
      example_at: `TrainExamples` or `EvalExamples`.
      size: side of the images in pixels.
      batch_size: of the global batch.
      start: position of the first example.
    """

    example_at: TrainExamples | EvalExamples
    size: int
    batch_size: int
    process_index: int
    process_count: int
    start: int = 0

    @property
    def num_rows(self) -> int:
        return self.batch_size // self.process_count

    def __call__(self, batch: int) -> dict:
        """{"images_u8" uint8 [b, size, size, 3], "labels" int32 [b], "mask" bool [b],
        "failures"}: uint8 because it is a quarter of the traffic between processes."""
        rows = self.num_rows
        images = np.zeros((rows, self.size, self.size, 3), np.uint8)
        labels = np.zeros(rows, np.int32)
        mask = np.zeros(rows, bool)
        failures = []
        first = self.start + int(batch) * self.batch_size + self.process_index * rows
        for row in range(rows):
            pixels, label, failed = self.example_at(first + row)
            failures.extend(failed)
            if pixels is not None:
                images[row], labels[row], mask[row] = pixels, label, True
        return {"images_u8": images, "labels": labels, "mask": mask, "failures": failures}
