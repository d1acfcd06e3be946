"""Batches for training (endless, resumable) and evaluation (one pass, every example once)."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from vqlab.data.codes import NoCrop
from vqlab.data.corrupt import CorruptDataError, CorruptRecords
from vqlab.data.examples import BatchRows, EvalExamples, TrainExamples, array_fields
from vqlab.data.reading import Reading
from vqlab.data.transforms import StoredCrop

ENDLESS = 2**62  # batches


class TrainBatches:
    """Endless iterator over one process's part of the global batches; see `train_batches`."""

    def __init__(self, rows: BatchRows, corrupt: CorruptRecords, seed: int, reading: Reading):
        self._rows = rows
        self._corrupt = corrupt
        self._seed = seed
        self._reading = reading
        self._next_example = 0
        self._num_reshuffles = 0
        self._batches = None  # started at the first batch, so that restoring starts no workers

    @property
    def corrupt(self) -> CorruptRecords:
        """The corrupt records met so far by this process."""
        return self._corrupt

    @property
    def num_reshuffles(self) -> int:
        """How often the order was changed."""
        return self._num_reshuffles

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict:
        """{"images": uint8 [b, H, W, 3], "labels": int32 [b]} with b = B / P rows.

        From records also their arrays, as they are stored: devices convert, and less travels.

        Raises:
          CorruptDataError: too many records are corrupt.
        """
        if self._batches is None:
            examples = self._rows.example_at.reshuffled(self._num_reshuffles)
            rows = dataclasses.replace(self._rows, example_at=examples, start=self._next_example)
            self._batches = self._reading.read(rows, ENDLESS)
        batch = next(self._batches)
        self._corrupt.add(batch.pop("failures"), tried=self._rows.num_rows)
        if not batch.pop("mask").all():
            raise CorruptDataError(f"hardly a readable image found: {self._corrupt.listing()}")
        self._next_example += self._rows.batch_size
        return _finish(batch)

    def get_state(self) -> dict:
        """Where the next batch starts, in JSON types.

        Counts examples of the whole run, so that it fits any batch size and any number of hosts
        and workers. `corrupt` is what this process has met.
        """
        return {
            "next_example": self._next_example,
            "num_reshuffles": self._num_reshuffles,
            "seed": self._seed,
            "num_records": self._corrupt.num_records,
            "corrupt": self._corrupt.get_state(),
        }

    def set_state(self, state: dict, *, reshuffle: bool = False) -> None:
        """Continues at `state`, with the batches that would have come without the break.

        With `reshuffle` what follows comes in an order that was not tried yet. The epoch that
        `state` lies in then shows some images twice and others not.

        Raises:
          ValueError: the seed or the number of records differs: the order would be another one.
        """
        own = self.get_state()
        for key, word in (("seed", "seed"), ("num_records", "number of records")):
            if state[key] != own[key]:
                raise ValueError(
                    f"cannot resume the data: the {word} was {state[key]}, now it is {own[key]}"
                )
        self.close()
        self._next_example = state["next_example"]
        tried = max(self._num_reshuffles, state["num_reshuffles"])
        self._num_reshuffles = tried + 1 if reshuffle else state["num_reshuffles"]
        self._corrupt.set_state(state["corrupt"])

    def close(self) -> None:
        """Ends the worker processes; iterating again would start new ones."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class EvalBatches:
    """One process's part of the evaluation batches; every `iter` is a new pass."""

    def __init__(self, rows: BatchRows, count: int, max_corrupt_share: float, reading: Reading):
        self._rows = rows
        self._count = count
        self._max_corrupt_share = max_corrupt_share
        self._reading = reading
        self.corrupt = CorruptRecords(count, max_corrupt_share)

    def __len__(self) -> int:
        """Batches in a pass, the same on every process."""
        return math.ceil(self._count / self._rows.batch_size)

    def __iter__(self):
        """Yields {"images", "labels", "mask": bool [b]} and arrays as in training; the mask is
        False, and the image zero, where there is no example: a corrupt image, or
        the last batch's padding."""
        self.corrupt = CorruptRecords(self._count, self._max_corrupt_share)
        batches = self._reading.read(self._rows, len(self))
        try:
            for batch in batches:
                failures = batch.pop("failures")
                batch = _finish(batch)  # copies: workers lend theirs
                self.corrupt.add(failures, tried=self._rows.num_rows)
                yield batch
        finally:
            batches.close()


def train_batches(
    source,
    transform,
    batch_size: int,
    *,
    seed: int,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    num_workers: int = 0,
    num_threads: int = 2,
    prefetch: int = 2,
    max_corrupt_share: float = 0.01,
    on_worker_death: Callable[[str], None] | None = None,
) -> TrainBatches:
    """Endless training batches; the same for any number of processes, workers and threads.

    Every epoch is a new permutation. A corrupt image is replaced by another one, named in a
    warning and counted.

    Args:
      source: see `vqlab.data.sources.Source`.
      transform: callable (RGB image, generator) -> uint8 [size, size, 3] with attribute `size`;
        `StoredCrop` where the source holds arrays beside the images, which are of these crops.
      batch_size: B, of the global batch over all processes.
      seed: of order and augmentation.
      parts, num_parts: numbers p, ascending, and P; this process gets rows p*B/P to (p+1)*B/P for
        each p.
      num_workers, num_threads, prefetch, on_worker_death: see `Reading`.
      max_corrupt_share: see `CorruptRecords`.

    Raises:
      ValueError: B does not split into the parts, a number is out of range, or the transform
        would part crops from their arrays.
    """
    if seed < 0:
        raise ValueError(f"data seed is {seed}, must not be negative")
    if array_fields(source) and not isinstance(transform, StoredCrop | NoCrop):
        raise ValueError(
            f"records hold arrays of their crops; take these with StoredCrop, not {transform}"
        )
    examples = TrainExamples(source, transform, seed)
    rows = _rows(examples, source, transform.size, batch_size, parts, num_parts)
    corrupt = CorruptRecords(len(source), max_corrupt_share)
    reading = Reading(num_workers, num_threads, prefetch, on_worker_death)
    return TrainBatches(rows, corrupt, seed, reading)


def eval_batches(
    source,
    transform,
    batch_size: int,
    *,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    limit: int | None = None,
    num_workers: int = 0,
    num_threads: int = 2,
    prefetch: int = 2,
    max_corrupt_share: float = 0.01,
    on_worker_death: Callable[[str], None] | None = None,
) -> EvalBatches:
    """One pass in order, each example exactly once over all processes.

    Arguments as in `train_batches`; `limit` takes only so many records, evenly spread.

    Raises:
      ValueError: B does not split into the parts, or a number is out of range.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"evaluation limit is {limit}, must be at least 1 (or None for all)")
    count = len(source) if limit is None else min(limit, len(source))
    examples = EvalExamples(source, transform, count)
    rows = _rows(examples, source, transform.size, batch_size, parts, num_parts)
    reading = Reading(num_workers, num_threads, prefetch, on_worker_death)
    return EvalBatches(rows, count, max_corrupt_share, reading)


def _rows(examples, source, size, batch_size, parts, num_parts) -> BatchRows:
    if batch_size < 1 or num_parts < 1 or batch_size % num_parts:
        raise ValueError(f"global batch size {batch_size} does not split into {num_parts} parts")
    if not parts or list(parts) != sorted(set(parts) & set(range(num_parts))):
        raise ValueError(f"parts {tuple(parts)} are not ascending numbers in [0, {num_parts})")
    fields = array_fields(source)
    return BatchRows(examples, size, batch_size, tuple(parts), num_parts, fields=fields)


def _finish(batch: dict) -> dict:
    """The batch as it is stored, in memory of its own: workers lend theirs."""
    images = batch.pop("images_u8")
    return {"images": images.copy(), **{name: np.array(value) for name, value in batch.items()}}
