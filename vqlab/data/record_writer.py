"""Writes folders of records, shard by shard, so that a stopped job goes on at the next shard."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from vqlab.data.manifest import MANIFEST_FILE, Manifest, Shard, load_manifest, save_manifest
from vqlab.data.record_format import check_array, encode_bare, encode_record
from vqlab.data.records import count_records
from vqlab.data.same_job import check_same_job

# One record a chunk, for random access. Images are compressed already and floats hardly can be:
# compression would save 6 % and make reading three times slower.
OPTIONS = "group_size:1,uncompressed"
SUFFIX = ".array_record"


class RecordFileError(ValueError):
    """A record that must not be stored, or a file that cannot be written or is not there."""


class ShardFile:
    """One array_record file while it is written.

    Args:
      path: of the file.
      manifest: what the records are.

    Raises:
      RecordFileError: for what the disk says, here and from the methods.
    """

    def __init__(self, path: Path, manifest: Manifest):
        self._path = path
        self._fields = manifest.fields
        self._has_images = manifest.has_images
        self._count = 0
        self._pool = concurrent.futures.ThreadPoolExecutor()
        with _disk_errors(path):
            self._file = ArrayRecordWriter(str(path), OPTIONS)

    def write(self, images_u8: np.ndarray, labels: np.ndarray, arrays: Mapping) -> None:
        """Appends crops [N, H, W, 3], labels [N] and the fields' arrays [N, ...].

        The crops are left out where the manifest says so.

        Raises:
          RecordFileError: an array has another shape or dtype than its field, is not finite, or
            does not fit into its field's bits.
          ValueError: the arrays are not the fields.
        """
        if set(arrays) != set(self._fields):
            raise ValueError(f"arrays {sorted(arrays)} are not the fields {sorted(self._fields)}")

        def encode(row: int) -> bytes:
            own = {name: array[row] for name, array in arrays.items()}
            try:
                return self._encode(images_u8[row], labels[row], own)
            except ValueError as error:
                name, record = self._path.with_suffix(SUFFIX), self._count + row
                raise RecordFileError(f"{name} record {record} is not written: {error}") from error

        for record in self._pool.map(encode, range(len(images_u8))):
            with _disk_errors(self._path):
                self._file.write(record)
        self._count += len(images_u8)

    def _encode(self, pixels: np.ndarray, label: int, arrays: Mapping[str, np.ndarray]) -> bytes:
        for name, array in arrays.items():
            check_array(name, array, self._fields[name])
        if self._has_images:
            return encode_record(pixels, label, arrays)
        return encode_bare(label, arrays, self._fields)

    def close(self) -> None:
        """Writes what is left."""
        self._pool.shutdown()
        with _disk_errors(self._path):
            self._file.close()


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # array_record's word for them
        raise RecordFileError(f"{path} cannot be written: {error}") from error


class RecordWriter:
    """The shards of one folder, written by one or several processes.

    Process p of P writes the shards p, p + P, ...; each gets its name only when it is whole.
    Process 0 alone calls `begin` before, and `finish` after all processes are done.

    Args:
      folder: where to write; shared by all processes.
      manifest: what will be written, without shards.
      num_shards: in all.
      process_index, process_count: p and P.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        num_shards: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.folder = Path(folder)
        self.manifest = dataclasses.replace(manifest, shards=None)
        self._num_shards = num_shards
        self._own = range(process_index, num_shards, process_count)

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"data-{shard:05}-of-{self._num_shards:05}{SUFFIX}"

    def begin(self, *, overwrite: bool = False) -> None:
        """Makes the folder, or checks that what is there belongs to the same job.

        Raises:
          ValueError: records of another job are there; with `overwrite` they are deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
            for path in self._shard_files():
                path.unlink()
        self.check()
        if load_manifest(self.folder) is None:
            if self._shard_files():
                raise ValueError(
                    f"{self.folder} holds shards without {MANIFEST_FILE}, of an unknown job; give "
                    "another folder, or overwrite"
                )
            save_manifest(self.manifest, self.folder)

    def _shard_files(self) -> list[Path]:
        return list(self.folder.glob("data-*-of-*"))

    def check(self) -> None:
        """Takes over what the folder's manifest says of the source: process 0 wrote it.

        Raises:
          ValueError: the folder holds records of another job.
        """
        there = load_manifest(self.folder)
        if there is None:
            return
        check_same_job(there, self.manifest, self.folder)
        self.manifest = dataclasses.replace(self.manifest, source=there.source)

    def missing(self) -> list[int]:
        """This process's shards that are not there or damaged, ascending."""
        return [shard for shard in self._own if count_records(self.path(shard)) is None]

    @contextlib.contextmanager
    def shard(self, shard: int) -> Iterator[ShardFile]:
        """A file to write to, which gets its name when the block ends well."""
        path = self.path(shard)
        part = path.with_suffix(".part")
        file = ShardFile(part, self.manifest)
        try:
            yield file
            file.close()
        except BaseException:
            with contextlib.suppress(RecordFileError):
                file.close()
            part.unlink(missing_ok=True)
            raise
        os.replace(part, path)

    def finish(self) -> Manifest:
        """Writes the manifest that makes the records readable.

        Raises:
          RecordFileError: a shard is missing or damaged, or all shards are empty.
        """
        shards = []
        for number in range(self._num_shards):
            path = self.path(number)
            count = count_records(path)
            if count is None:
                raise RecordFileError(f"{path} is missing or damaged; give the same command again")
            if count:
                shards.append(Shard(path.name, count, os.path.getsize(path)))
        if not shards:
            raise RecordFileError(f"no readable image for {self.folder}")
        manifest = dataclasses.replace(self.manifest, shards=tuple(shards))
        save_manifest(manifest, self.folder)
        return manifest
