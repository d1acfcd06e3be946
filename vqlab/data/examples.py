"""Example number `position` of a run, and rows of a batch: pure functions that workers call."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vqlab.data.corrupt import Failure
from vqlab.data.decode import UNREADABLE, decode_rgb, decoding_of

MAX_REPLACEMENTS = 64

# Independent random streams of one seed.
AUGMENTATION, REPLACEMENT, ORDER, VIEW = range(4)


class Example(NamedTuple):
    """`pixels` is uint8 [H, W, 3], or None where there is no image; `arrays` are by name."""

    pixels: np.ndarray | None
    label: int
    arrays: Mapping[str, np.ndarray]
    failures: tuple[Failure, ...]


def no_example(*failures: Failure) -> Example:
    """Where there is no image."""
    return Example(None, 0, {}, failures)


def array_fields(source) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of the arrays beside the images of a source; most have none."""
    return getattr(source, "fields", {})


class TrainExamples:
    """Training examples by position in the endless shuffled order.

    Every epoch is a permutation of its own. The record, the augmentation and, for a corrupt
    record, the replacement follow from (seed, position) alone.

    Args:
      source, transform: see `train_batches`.
      seed: of order, augmentation and replacements.
      reshuffle: another number gives other permutations.
    """

    def __init__(self, source, transform, seed: int, reshuffle: int = 0):
        self._source = source
        self._transform = transform
        self._seed = seed
        self._reshuffle = reshuffle
        self._epoch = (-1, None)

    def reshuffled(self, reshuffle: int) -> "TrainExamples":
        """The same examples in the order of that number."""
        return TrainExamples(self._source, self._transform, self._seed, reshuffle)

    def record_at(self, position: int) -> int:
        """The record that the shuffled order holds at a position."""
        number, place = divmod(position, len(self._source))
        epoch, order = self._epoch
        if epoch != number:
            # Drawn whole: 10 MB and 0.1 s for ImageNet, once an epoch and reader. grain's shuffle
            # needs no memory, but takes 4 ms for each record of a set as small as ten.
            stream = [number, ORDER, self._reshuffle] if self._reshuffle else [number, ORDER]
            rng = np.random.default_rng([self._seed, *stream])
            order = rng.permutation(len(self._source))
            self._epoch = (number, order)
        return int(order[place])

    def __call__(self, position: int) -> Example:
        """Raises nothing for corrupt records: another one stands in, the failures are listed."""
        record = self.record_at(position)
        failures = []
        spare = None
        for _ in range(1 + MAX_REPLACEMENTS):
            rng = np.random.default_rng([self._seed, position, AUGMENTATION])
            example = read_example(self._source, record, self._transform, rng)
            if not isinstance(example, Failure):
                return example._replace(failures=tuple(failures))
            failures.append(example)
            spare = spare or np.random.default_rng([self._seed, position, REPLACEMENT])
            record = int(spare.integers(len(self._source)))
        return no_example(*failures)


class EvalExamples:
    """`count` records, evenly spread and in order; positions beyond them are empty (padding).

    Spread, because the records of many sets are sorted by class.
    """

    def __init__(self, source, transform, count: int):
        self._source = source
        self._transform = transform
        self._count = count

    def __call__(self, position: int) -> Example:
        """A corrupt record is empty too, and listed."""
        if position >= self._count:
            return no_example()
        record = position * len(self._source) // self._count
        example = read_example(self._source, record, self._transform, None)
        return no_example(example) if isinstance(example, Failure) else example


def read_example(source, record: int, transform, rng) -> Example | Failure:
    """The transformed image, or what is wrong with a corrupt record."""
    content = read_record(source, record)
    if isinstance(content, Failure):
        return content
    image, label, arrays = content
    try:
        return Example(transform(image, rng), label, arrays, ())
    except MemoryError as error:  # a huge image, which fitted alone, but not beside its crop
        return _failure(source, record, error)


def read_record(source, record: int) -> tuple | Failure:
    """(RGB image or None, label, arrays by name), or what is wrong with a corrupt record."""
    try:
        content = source[record]
        arrays = {name: content[name] for name in array_fields(source)}
        has_images = getattr(source, "has_images", True)
        image = decode_rgb(content["image"], decoding_of(source)) if has_images else None
        return image, content["label"], arrays
    except UNREADABLE as error:
        return _failure(source, record, error)


def _failure(source, record: int, error: Exception) -> Failure:
    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    return Failure(int(record), source.name(record), reason)


@dataclasses.dataclass(frozen=True)
class BatchRows:
    """One process's rows of a global batch.

    Global batch b holds the positions start + b * batch_size onwards, in `num_parts` equal parts.
    A process has some of them, those that its devices hold, so the batch put together is the same
    for any processes and devices.

    Attributes:
      example_at: `TrainExamples`, `EvalExamples` or `ViewExamples`.
      size: side of the images in pixels.
      batch_size: of the global batch.
      parts, num_parts: this process's parts, ascending, and how many there are.
      start: position of the first example.
      fields: dtype and shape of the arrays beside the images, by name.
    """

    example_at: Callable[[int], Example]
    size: int
    batch_size: int
    parts: Sequence[int] = (0,)
    num_parts: int = 1
    start: int = 0
    fields: Mapping[str, tuple[str, tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.parts) * (self.batch_size // self.num_parts)

    def positions(self, batch: int) -> Iterator[int]:
        """Of this process's rows, in their order in the global batch."""
        size = self.batch_size // self.num_parts
        for part in self.parts:
            first = self.start + batch * self.batch_size + part * size
            yield from range(first, first + size)

    def __call__(self, batch: int) -> dict:
        """{"images_u8" uint8 [b, size, size, 3], "labels" int32 [b], "mask" bool [b], "failures"
        and the `fields`}: stored dtypes, because there is less traffic between processes."""
        rows = self.num_rows
        images = np.zeros((rows, self.size, self.size, 3), np.uint8)
        labels = np.zeros(rows, np.int32)
        mask = np.zeros(rows, bool)
        arrays = {n: np.zeros((rows, *shape), dtype) for n, (dtype, shape) in self.fields.items()}
        failures = []
        for row, position in enumerate(self.positions(int(batch))):
            example = self.example_at(position)
            failures.extend(example.failures)
            if example.pixels is not None:
                images[row], labels[row], mask[row] = example.pixels, example.label, True
                for name, array in arrays.items():
                    array[row] = example.arrays[name]
        return {
            "images_u8": images,
            "labels": labels,
            "mask": mask,
            "failures": failures,
            **arrays,
        }
