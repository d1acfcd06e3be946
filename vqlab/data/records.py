"""Records that hold a crop beside what networks made of it, in array_record files.

A folder has one `manifest.json` and shards `data-00000-of-00016.array_record`. A record is an
`.npz` of its image (a lossless WebP file), its label and its arrays, so the crop that a network
saw and the arrays it made never part.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from vqlab.data.decode import UNREADABLE, decode_rgb
from vqlab.data.manifest import Field, Shard, read_manifest

NUM_CHECKED = 64  # records looked at before a run


def encode_record(pixels: np.ndarray, label: int, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of uint8 pixels [H, W, 3], a label and arrays; the same for the same content."""
    image, record = io.BytesIO(), io.BytesIO()
    # Quality and method say how hard to compress. At their least this is already smaller than
    # PNG, and takes half the time.
    Image.fromarray(pixels).save(image, "WEBP", lossless=True, quality=0, method=0)
    np.savez(
        record,
        image=np.frombuffer(image.getvalue(), np.uint8),
        label=np.int64(label),
        **arrays,
    )
    return record.getvalue()


def decode_record(record: bytes, image_size: int, fields: Mapping[str, Field]) -> dict:
    """{"image": uint8 [image_size, image_size, 3], "label": int, and the arrays of `fields`}.

    Raises:
      ValueError: damaged, or an array that is missing, of another shape or dtype, or not finite.
    """
    try:
        with np.load(io.BytesIO(record), allow_pickle=False) as content:
            arrays = dict(content)
        image = np.asarray(decode_rgb(arrays.pop("image").tobytes()))
        label = int(arrays.pop("label"))
    except (KeyError, TypeError, NotImplementedError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise ValueError(f"no record: {type(error).__name__}: {error}") from error
    if image.shape != (image_size, image_size, 3):
        raise ValueError(f"its image is {image.shape}, not of {image_size} pixels")
    for name, field in fields.items():
        if name not in arrays:
            raise ValueError(f"it has no {name}")
        check_array(name, arrays[name], field)
    return {"image": image, "label": label, **{name: arrays[name] for name in fields}}


def check_array(name: str, array: np.ndarray, field: Field) -> None:
    """Raises ValueError unless the array has the field's shape and dtype and is finite."""
    if (array.dtype.name, array.shape) != (field.dtype, field.shape):
        raise ValueError(
            f"its {name} is {array.dtype} {array.shape}, not {field.dtype} {field.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"its {name} holds NaN or infinite numbers")


class RecordSource:
    """Random access to the records in `path/split`.

    Before anything is read in earnest every file is compared with the manifest, and the first
    record of each (at most 64, evenly spread) is decoded and checked.

    Attributes:
      manifest: what the records are.
      fields: dtype and shape of their arrays by name.

    Raises:
      ValueError: no finished records there; a file that is missing, truncated or damaged; a
        record that is damaged or not finite.
    """

    def __init__(self, path: str, split: str = "train"):
        self.manifest = read_manifest(path, split)
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

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, record: int) -> dict:
        """{"image": uint8 [H, W, 3], "label": int, and the arrays as they are stored}."""
        try:
            content = self._records[int(record)]
        except RuntimeError as error:  # array_record's word for a damaged chunk
            raise OSError(f"unreadable record: {error}") from error
        return decode_record(content, self.manifest.image_size, self.manifest.fields)

    def name(self, record: int) -> str:
        """The file, and the record's number in it."""
        number = bisect.bisect_right(self._ends, int(record))
        shard = self.manifest.shards[number]
        first = self._ends[number] - shard.num_records
        return f"{self._folder / shard.file} record {int(record) - first}"


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
