"""Crops in order, each once, for networks that run over a data set and store what they make."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vqlab.data.corrupt import CorruptRecords, Failure
from vqlab.data.examples import BatchRows, Example, no_example, read_record
from vqlab.data.pipeline import Reading
from vqlab.data.views import Views


class ViewExamples:
    """Position r is view r % V of image r // V; positions from `count` on are empty.

    Each thread keeps the image that it read last, for its other views.
    """

    def __init__(self, source: Any, views: Views, count: int):
        self._source, self._views, self._count = source, views, count
        self._last = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self._source, "views": self._views, "count": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __call__(self, position: int) -> Example:
        """A corrupt image is empty too, and listed."""
        if position >= self._count:
            return no_example()
        record, view = divmod(position, self._views.num_views)
        if getattr(self._last, "record", None) != record:
            self._last.content = self._read(record)
            self._last.record = record
        content = self._last.content
        if isinstance(content, Failure):
            return no_example(content)
        crop, label = content
        return Example(crop(view), label, {}, ())

    def _read(self, record: int) -> tuple | Failure:
        content = read_record(self._source, record)
        if isinstance(content, Failure):
            return content
        image, label, _ = content
        return self._views.of_image(image, record), label


@dataclasses.dataclass(frozen=True)
class ShardRows:
    """Batch after batch of some shards, one shard after the other."""

    rows: BatchRows
    shards: tuple[int, ...]
    batches_per_shard: int

    def __call__(self, batch: int) -> dict:
        """See `BatchRows`."""
        place, part = divmod(int(batch), self.batches_per_shard)
        return self.rows(self.shards[place] * self.batches_per_shard + part)


class ViewBatches:
    """All views of the first images of a source, cut into shards and these into batches.

    No batch holds crops of two shards, so a shard's content does not hang on where a job began.

    Args:
      source: see `vqlab.data.sources.Source`.
      views: see `vqlab.data.views`.
      batch_size: crops in a batch; the last batch of the last shard is padded.
      records_per_shard: a multiple of the batch size.
      limit: of images; None for all.
      max_corrupt_share: see `CorruptRecords`.
      num_workers, num_threads, prefetch: see `Reading`.

    Raises:
      ValueError: a number is out of range.
    """

    def __init__(
        self,
        source,
        views: Views,
        batch_size: int,
        *,
        records_per_shard: int,
        limit: int | None = None,
        max_corrupt_share: float = 0.01,
        num_workers: int = 0,
        num_threads: int = 2,
        prefetch: int = 2,
    ):
        if batch_size < 1 or records_per_shard < 1 or records_per_shard % batch_size:
            raise ValueError(
                f"records_per_shard={records_per_shard} is no multiple of batch_size={batch_size}"
            )
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}, must be at least 1 (or None for all)")
        self.num_images = len(source) if limit is None else min(limit, len(source))
        self._num_views = views.num_views
        self.count = self.num_images * views.num_views
        self._batches_per_shard = records_per_shard // batch_size
        examples = ViewExamples(source, views, self.count)
        self._rows = BatchRows(examples, views.size, batch_size)
        self._reading = Reading(num_workers, num_threads, prefetch)
        self.corrupt = CorruptRecords(self.num_images, max_corrupt_share)

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return math.ceil(self.count / (self._batches_per_shard * self._rows.batch_size))

    def batches_in(self, shard: int) -> int:
        """Batches of a shard; only the last shard has fewer than the others."""
        total = math.ceil(self.count / self._rows.batch_size)
        return min(self._batches_per_shard, total - shard * self._batches_per_shard)

    def read(self, shards: Sequence[int]) -> Iterator[dict]:
        """The batches of `shards`, which ascend: uint8 "images_u8", "labels" and "mask".

        The mask is False where there is no crop: a corrupt image, or padding.

        Raises:
          CorruptDataError: too many images are corrupt.
        """
        rows = ShardRows(self._rows, tuple(shards), self._batches_per_shard)
        images_per_batch = math.ceil(self._rows.batch_size / self._num_views)
        batches = self._reading.read(rows, sum(self.batches_in(shard) for shard in shards))
        try:
            for batch in batches:
                failures = batch.pop("failures")
                # Copies: the workers' memory must not be in use when they end.
                batch = {name: np.array(value) for name, value in batch.items()}
                self.corrupt.add(failures, tried=images_per_batch)
                yield batch
        finally:
            batches.close()
