"""State dicts, official name -> array, from published files.

No file is read by running what it holds, and none needs torch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.export.checkpoint_choice import choose
from vqlab.export.checkpoint_parts import Stored
from vqlab.export.strict import is_float
from vqlab.export.torch_reader import open_checkpoint

log = logging.getLogger("vqlab")

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
INDEX = ".index.json"
SUFFIXES = (".safetensors", ".npz", INDEX, *TORCH_SUFFIXES)
# What `save_pretrained` of diffusers and transformers writes; the first that is there is read.
_FOLDER_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
FOLDER_FILES = tuple(name + end for name in _FOLDER_NAMES for end in ("", INDEX))
# How files begin that were not really downloaded.
_STAND_INS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file: fetch it with `git lfs pull`",
    b"<!DOCTYPE html": "a web page, not the file: download it anew",
    b"<html": "a web page, not the file: download it anew",
}


def read_state_dict(path: str | Path, weights: str = "") -> dict[str, np.ndarray]:
    """Official name -> array, from a file or from a folder of diffusers' `save_pretrained`.

    Of a training checkpoint one part is read (checkpoint_choice.py), and a logged line says which.
    The parts "module." and "_orig_mod." are removed from names. Floats become float32.

    Args:
      path: a .safetensors, .npz, .pt, .pth, .ckpt, .bin or .pkl file, an .index.json with the
        names of such files, or the folder.
      weights: "ema", "model" or the name of a part; "" for averaged weights if there are any.

    Raises:
      ValueError: no such file, another kind of file, a damaged one, no state dict in it or several,
        or a tensor that is not stored as plain numbers.
    """
    file = _weights_file(Path(path).expanduser())
    try:
        with _opened(file) as checkpoint:
            state, sentence = choose(checkpoint, weights)
            arrays = {name: _array(name, tensor) for name, tensor in state.items()}
    except ValueError as error:  # on one line, whatever names the file has
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error
    if sentence:
        log.info("%s: %s", file, sentence)
    return arrays


def names_file(path: str | Path) -> bool:
    """Whether `path` ends as a file of weights does, be it there or not."""
    return _kind(Path(path)) in SUFFIXES


def _weights_file(path: Path) -> Path:
    """The file that `path` is, or that the folder holds."""
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            inner = sorted(f.parent.name for n in FOLDER_FILES for f in path.glob(f"*/{n}"))
            hint = f"; its folders with weights: {', '.join(inner)}" if inner else ""
            raise ValueError(f"{path}: a folder without {' or '.join(_FOLDER_NAMES)}{hint}")
        return found[0]
    if _kind(path) not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of weights file; choose from {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    return path


def _kind(path: Path) -> str:
    name = path.name.lower()
    return INDEX if name.endswith(INDEX) else path.suffix.lower()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """What a file holds, with a `Stored` for each tensor."""
    with path.open("rb") as file:
        start = file.read(32)
    for beginning, what in _STAND_INS.items():
        if start.startswith(beginning):
            raise ValueError(what)
    openers = {".safetensors": _open_safetensors, ".npz": _open_npz, INDEX: _open_index}
    with openers.get(_kind(path), open_checkpoint)(path) as checkpoint:
        yield checkpoint


def _array(name: str, tensor: Stored) -> np.ndarray:
    if tensor.fault:
        raise ValueError(f"{name} {tensor.fault}")
    try:
        array = tensor.read()
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    if not is_float(array):
        return array
    with np.errstate(over="ignore"):  # becomes infinite, which no model takes
        return array.astype(np.float32, copy=False)


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Stored]]:
    from safetensors import SafetensorError, safe_open

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(path, "numpy"))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"damaged or no safetensors file ({_one_line(error)})") from error
        yield {
            name: _stored_safetensor(file, name, part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }


def _stored_safetensor(file, name: str, dtype: str, shape: tuple[int, ...]) -> Stored:
    is_float = dtype in ("F16", "BF16", "F32", "F64")
    if dtype.startswith("F") and not is_float:
        return Stored(shape, True, fault=f"is {dtype}; give weights in floats of 16 or 32 bits")
    return Stored(shape, is_float, functools.partial(file.get_tensor, name))


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[dict[str, Stored]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(f"damaged or no .npz file ({_one_line(error)})") from error
    yield {name: Stored(a.shape, is_float(a), lambda a=a: a) for name, a in arrays.items()}


@contextlib.contextmanager
def _open_index(path: Path) -> Iterator[dict[str, Stored]]:
    """The tensors of several files beside an index, {"weight_map": {tensor name: file name}}."""
    try:
        places = json.loads(path.read_text())["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged or no index of weights ({_one_line(error)})") from error
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_opened(_shard(path, name))) for name in names}
        lost = [name for name, file in places.items() if name not in files[file]]
        if lost:
            raise ValueError(f"{lost[0]} is not in {places[lost[0]]}")
        yield {name: files[file][name] for name, file in places.items()}


def _shard(index: Path, name: str) -> Path:
    """The file beside the index; none elsewhere, and no further index."""
    path = index.parent / name
    if Path(name).name != name or _kind(path) == INDEX or not path.is_file():
        raise ValueError(f"the index names {name!r}, which is no file beside it")
    return path


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
