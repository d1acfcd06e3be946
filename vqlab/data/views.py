"""Crops in order, each once, for networks that run over a data set and store what they make."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vqlab.data.corrupt import CorruptRecords, Failure
from vqlab.data.examples import VIEW, BatchRows, Example, no_example, read_record
from vqlab.data.pipeline import Reading
from vqlab.data.transforms import CenterCrop, TrainTransform


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

    def __call__(self, image: Image.Image, record: int, view: int) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]."""
        pixels = CenterCrop(self.size)(image)
        return pixels[:, ::-1] if view else pixels

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

    def __call__(self, image: Image.Image, record: int, view: int) -> np.ndarray:
        """RGB image of any size -> uint8 [size, size, 3]."""
        return self.transform(image, np.random.default_rng([self.seed, record, view, VIEW]))

    def describe(self) -> dict[str, Any]:
        """In JSON types."""
        rule = dataclasses.asdict(self.transform)
        return {"crop": "random", "num_views": self.num_views, "seed": self.seed, **rule}


@dataclasses.dataclass(frozen=True)
class ViewExamples:
    """Position r is view r % V of image r // V; positions from `count` on are empty."""

    source: Any
    views: CenterViews | RandomViews
    count: int

    def __call__(self, position: int) -> Example:
        """A corrupt image is empty too, and listed."""
        if position >= self.count:
            return no_example()
        record, view = divmod(position, self.views.num_views)
        content = read_record(self.source, record)
        if isinstance(content, Failure):
            return no_example(content)
        image, label, _ = content
        return Example(self.views(image, record, view), label, {}, ())


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
      views: `CenterViews` or `RandomViews`.
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
        views: CenterViews | RandomViews,
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
