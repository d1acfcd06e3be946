"""Records of what networks made of crops, in array_record files; docs/records.md has the format.

A folder has one `manifest.json` and shards `data-00000-of-00016.array_record`. A record holds the
label and the arrays of one crop. The crop lies beside them, so that what a network saw and what it
made never part, or is left out where only the arrays are wanted.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from vqlab.data.contents import Entry
from vqlab.data.decode import UNREADABLE
from vqlab.data.manifest import Shard, read_manifest
from vqlab.data.record_format import decode_arrays, decode_bare, decode_record
from vqlab.data.source import Source

NUM_CHECKED = 64  # records looked at before a run


class RecordArrays(Source):
    """Random access to labels and arrays of the records in `path/split`, whatever lies beside.

    Before anything is read in earnest every file is compared with the manifest, and the first
    record of each (at most 64, evenly spread) is decoded and checked.

    Attributes:
      manifest: what the records are.
      num_classes: of the labels.
      fields: dtype and shape of their arrays by name.

    Raises:
      ValueError: no finished records there; a file that is missing, truncated or damaged; a
        record that is damaged or not finite.
    """

    def __init__(self, path: str, split: str = "train"):
        self.manifest = read_manifest(path, split)
        self._path = str(path)
        self._folder = Path(path).expanduser() / split
        self.num_classes = self.manifest.num_classes
        self.fields = {n: (f.dtype, f.shape) for n, f in self.manifest.fields.items()}
        shards = self.manifest.shards
        for shard in shards:
            _check_file(self._folder / shard.file, shard)
        try:
            self._records = grain.sources.ArrayRecordDataSource(
                [str(self._folder / shard.file) for shard in shards]
            )
        except RuntimeError as error:
            raise ValueError(f"records in {self._folder} are damaged: {error}") from error
        self._ends = list(itertools.accumulate(shard.num_records for shard in shards))
        for number in np.linspace(0, len(shards) - 1, min(len(shards), NUM_CHECKED)).astype(int):
            self._check(self._ends[number] - shards[number].num_records)

    def _check(self, record: int) -> None:
        try:
            self[record]
        except UNREADABLE as error:
            raise ValueError(f"{self.name(record)} is damaged: {error}") from error

    @property
    def identity(self) -> dict[str, str]:
        """The folder as it was given."""
        return {"path": self._path}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, record: int) -> dict:
        """{"label": int, and the arrays}; no image is decoded.

        Raises:
          OSError, ValueError: the record is damaged.
        """
        decode = decode_arrays if self.manifest.has_images else decode_bare
        return decode(self._bytes(record), self.manifest.fields)

    def _bytes(self, record: int) -> bytes:
        try:
            return self._records[int(record)]
        except RuntimeError as error:  # array_record's word for a damaged chunk
            raise OSError(f"unreadable record: {error}") from error

    def entries(self, count: int) -> list[Entry]:
        """All records as one, see `vqlab.data.contents`: the manifest tells what made them."""
        size = sum(shard.num_bytes for shard in self.manifest.shards)
        return [Entry(json.dumps(self.manifest.to_json(), sort_keys=True), size)]

    def name(self, record: int) -> str:
        """The file, and the record's number in it."""
        number = bisect.bisect_right(self._ends, int(record))
        shard = self.manifest.shards[number]
        first = self._ends[number] - shard.num_records
        return f"{self._folder / shard.file} record {int(record) - first}"


class RecordSource(RecordArrays):
    """Records with their images, to train and evaluate from; see `RecordArrays`.

    Raises:
      ValueError: also where the records hold no images.
    """

    is_cropped = True
    setting = "path"

    def __init__(self, path: str, split: str = "train"):
        if not read_manifest(path, split).has_images:
            raise ValueError(
                f"records in {Path(path).expanduser() / split} hold no images (they were stored "
                "with images=none), but images are read here; store them with images=webp, or "
                "train a second stage from them with --config.data.name=codes"
            )
        super().__init__(path, split)

    def __getitem__(self, record: int) -> dict:
        """{"image": uint8 [H, W, 3], "label": int, and the arrays as they are stored}."""
        return decode_record(self._bytes(record), self.manifest.image_size, self.manifest.fields)


def count_records(path: str | Path) -> int | None:
    """Records in an array_record file; None if it is damaged or missing."""
    reader = ArrayRecordReader(str(path))
    return reader.num_records() if reader.ok() else None


def _check_file(path: Path, shard: Shard) -> None:
    if not path.is_file():
        raise ValueError(f"records are incomplete: {path} is missing")
    size = os.path.getsize(path)
    if size != shard.num_bytes:
        raise ValueError(f"{path} is truncated or changed: {size} bytes of {shard.num_bytes}")
    count = count_records(path)
    if count is None:
        raise ValueError(f"{path} is damaged: no array_record file")
    if count != shard.num_records:
        raise ValueError(f"{path} has {count} records of {shard.num_records}")
