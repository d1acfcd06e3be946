"""PyTorch's files (.pt, .pth, .ckpt, .bin) without PyTorch, and without running what they hold.

Both formats are read: the zip archive since PyTorch 1.6 (data.pkl, and one entry a storage) and
the row of pickles before (torchvision's older files have it). They are described by
torch/serialization.py. Tensors stay in the file until they are asked for.

A TorchScript archive (torch.jit.save) is the zip archive of a whole module: its tensors are read
under the names that its state dict would have, and its code is left where it lies.
"""

from __future__ import annotations

import contextlib
import functools
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vqlab.export import inert_pickle
from vqlab.export.checkpoint_parts import Stored
from vqlab.export.inert_pickle import Inert

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# RuntimeError is zipfile's for what it cannot unpack.
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, *inert_pickle.ERRORS)

# Last part of the name of a storage's class, or of a dtype -> dtype in the file.
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
}
# Bytes a number of the other kinds, which are not read.
_OTHER_SIZES = {"QInt32Storage": 4}

# How the classes of a TorchScript archive are called.
_SCRIPTED = "__torch__."


class _Storage(NamedTuple):
    """Where the numbers of a tensor lie: `kind` is a key of `_DTYPES`, `start` counts numbers."""

    kind: str
    key: str
    start: int


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Any]:
    """What a file holds, with a `Stored` for each tensor and an `Inert` for each unknown object.

    Raises:
      ValueError: the file is damaged, or of another kind.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            archive = (_ZipArchive if is_zip else _LegacyFile)(file)
            tree = _content(archive)
        except _DAMAGED as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"damaged or no PyTorch checkpoint ({text})") from error
        yield tree


class _ZipArchive:
    """The format since PyTorch 1.6."""

    def __init__(self, file):
        self._zip, self._last = zipfile.ZipFile(file), ("", b"")
        names = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip archive without data.pkl")
        self._root = names[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in self._zip.namelist():
            with self._open("byteorder") as entry:
                if entry.read() != b"little":
                    raise ValueError("of a big-endian machine")
        with self._open("data.pkl") as entry:
            self.tree = inert_pickle.load(entry, _storage)

    def _open(self, name: str):
        info = self._zip.getinfo(self._root + name)
        if not info.CRC:  # torch.serialization.set_crc32_options(False): there is none to compare
            info.CRC = None
        return self._zip.open(info)

    def read(self, key: str) -> bytes:
        """The bytes of a storage; the last is kept, as tensors that share one follow each other."""
        if self._last[0] != key:
            with self._open(f"data/{key}") as entry:
                self._last = key, entry.read()
        return self._last[1]


class _LegacyFile:
    """The format before PyTorch 1.6, or a plain pickle, which holds no storages."""

    def __init__(self, file):
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}  # key -> first byte, number of bytes
        first = inert_pickle.load(file, _storage)
        if first != _LEGACY_MAGIC:
            self.tree = first
            return
        inert_pickle.load(file, _storage)  # version of the format
        if not inert_pickle.load(file, _storage).get("little_endian", True):
            raise ValueError("of a big-endian machine")
        kinds: dict[str, str] = {}
        self.tree = inert_pickle.load(file, functools.partial(_storage, kinds=kinds))
        for key in inert_pickle.load(file, _storage):
            numbers = int.from_bytes(self._exactly(8), "little")
            size = numbers * _itemsize(kinds[str(key)])
            self._places[str(key)] = file.tell(), size
            file.seek(size, 1)
        if file.tell() > file.seek(0, 2):
            raise EOFError("cut short")

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError("cut short")
        return data

    def read(self, key: str) -> bytes:
        """The bytes of a storage."""
        start, size = self._places[key]
        self._file.seek(start)
        return self._exactly(size)


def _itemsize(kind: str) -> int:
    return _DTYPES[kind].itemsize if kind in _DTYPES else _OTHER_SIZES.get(kind, 1)


def _storage(identifier: tuple, kinds: dict[str, str] | None = None) -> Any:
    """What stands for an object stored outside the pickle; fills in `kinds`, key -> kind."""
    if identifier[0] == "module":  # the class of a whole network, with its source text
        return identifier[1]
    _, kind, key, _, _, *view = identifier
    kind = kind.name.rpartition(".")[2]
    if kinds is not None:
        kinds[str(key)] = kind
    return _Storage(kind, str(key), view[0][1] if view and view[0] else 0)


def _content(archive: Any) -> Any:
    tree = archive.tree
    if isinstance(tree, Inert) and tree.name.startswith(_SCRIPTED):
        return dict(_module_tensors(tree, archive))
    return _resolved(tree, archive, {})


def _module_tensors(module: Inert, archive: Any, path: str = "") -> Iterator[tuple[str, Stored]]:
    """(name, tensor) of a TorchScript module and of those inside it."""
    for name, value in (module.state or {}).items():
        if not isinstance(value, Inert):
            continue
        if value.is_tensor:
            yield path + name, _tensor(value, archive)
        elif value.name.startswith(_SCRIPTED):
            yield from _module_tensors(value, archive, f"{path}{name}.")


def _resolved(value: Any, archive: Any, done: dict[int, Any]) -> Any:
    """`value` with its calls that rebuild tensors as `Stored`, and every kind of dict as a dict."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Inert) and value.is_tensor:
        return _tensor(value, archive)
    entries = value.items if isinstance(value, Inert) else value
    if isinstance(entries, dict) and (entries or not isinstance(value, Inert)):
        done[id(value)] = made = {}
        made.update((key, _resolved(item, archive, done)) for key, item in entries.items())
        return made
    if isinstance(value, list | tuple) and not isinstance(value, _Storage):
        done[id(value)] = made = []
        made.extend(_resolved(item, archive, done) for item in value)
        return made
    return value


def _tensor(call: Inert, archive: Any) -> Stored:
    """The tensor that a call of one of PyTorch's functions for that would make."""
    function = call.name.rpartition("._rebuild_")[2]
    if function == "from_type_v2":  # a tensor with attributes, or of a class of its own
        return _tensor(call.args[0](*call.args[2]), archive)
    if function in ("parameter", "parameter_with_state"):
        return _tensor(call.args[0], archive)
    if function not in ("tensor", "tensor_v2", "tensor_v3"):
        kind = {"qtensor": "quantized"}.get(function, f"of a kind that is not read ({call.name})")
        return Stored((), True, fault=f"is {kind}; give weights in floats")
    storage, offset, shape, stride, *rest = call.args
    if not isinstance(storage, _Storage):
        return Stored((), True, fault="lies in a plain pickle; save it with torch.save")
    kind, metadata = storage.kind, rest[2:3]
    if function == "tensor_v3":
        kind, metadata = rest[2].name.rpartition(".")[2], rest[3:4]
    if kind not in _DTYPES:
        return Stored(
            tuple(shape), True, fault=f"is {kind}; give weights in floats of 16 or 32 bits"
        )
    if any(metadata):
        return Stored(tuple(shape), True, fault="is a conjugate or negative view")
    dtype = _DTYPES[kind]
    place = storage.key, dtype, storage.start + offset, tuple(shape), tuple(stride)
    return Stored(
        tuple(shape),
        dtype.kind == "f" or dtype == ml_dtypes.bfloat16,
        functools.partial(_read, archive, *place),
    )


def _read(archive, key: str, dtype: np.dtype, start: int, shape: tuple, stride: tuple):
    """The array [*shape] that starts at number `start` of a storage; `stride` counts numbers.

    It is a view, read-only: a tensor that repeats its numbers (stride 0) may be of any size.
    """
    try:
        storage = np.frombuffer(archive.read(key), dtype)
    except _DAMAGED as error:
        raise ValueError(f"is damaged ({error})") from error
    last = start + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if min(start, *shape, *stride, 0) < 0 or (math.prod(shape) and last >= storage.size):
        raise ValueError("reaches beyond what is stored of it")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    steps = [step * dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[start:], shape, steps)
