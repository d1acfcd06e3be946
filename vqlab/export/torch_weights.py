"""State dicts of the released PyTorch models: reading, writing, and conversion both ways.

Conversion is strict: every tensor is used once, and what does not fit is listed whole. torch is
imported only to read its own kinds of files, and never runs code that is stored in them.
"""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export import semanticist_names, torch_names
from vqlab.export.files import save_arrays
from vqlab.export.strict import check_fit
from vqlab.export.torch_file import write_torch

# A training checkpoint nests its state dicts; the first of these that exists is read. Averaged
# weights come first because they are the ones evaluated.
NESTED = ("ema", "model", "state_dict")
# Left in names, at the start or within, by torch.nn.parallel and torch.compile.
WRAPPERS = ("module", "_orig_mod")
TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
# Stands for the number of a layer in the official name of a leaf that stacks all layers.
LAYER = "{}"


def from_torch_state(
    state: Mapping[str, np.ndarray], template: Mapping[str, Any]
) -> tuple[dict, dict]:
    """(params, variables) of a tokenizer from an official state dict.

    Args:
      state: official name -> array in the official layout. A whole checkpoint of Semanticist may
        also hold the networks around it (`semanticist_names.fitted_state`).
      template: the model's variables or their shapes, as from jax.eval_shape(model.init, ...),
        with all their collections. Its paths tell whose names are read.

    Returns:
      `params`, and `variables` with the other collections, as nested dicts of NumPy arrays.

    Raises:
      ValueError: one line with every missing and unexpected name and every shape that differs.
    """
    leaves = flatten_dict(template, sep="/")
    scheme = _scheme(leaves)
    if scheme is semanticist_names:
        state = semanticist_names.fitted_state(state, leaves)
    names = scheme.official_names(leaves)
    shapes = {
        tensor: scheme.official_shape(path, _tensor_shape(names[path], leaf))
        for path, leaf in leaves.items()
        for tensor in _tensors(names[path], leaf)
    }
    check_fit(shapes, state, "the model")

    def converted(path: str, leaf) -> np.ndarray:
        name, shape = names[path], _tensor_shape(names[path], leaf)
        arrays = [
            scheme.from_official(path, np.asarray(state[tensor]), shape, leaf.dtype)
            for tensor in _tensors(name, leaf)
        ]
        return np.stack(arrays) if LAYER in name else arrays[0]

    flat = {path: converted(path, leaf) for path, leaf in leaves.items()}
    variables = unflatten_dict(flat, sep="/")
    return variables.pop("params"), variables


def to_torch_state(
    params: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The official state dict of a tokenizer's parameters and other collections."""
    leaves = flatten_dict({"params": params, **variables}, sep="/")
    scheme = _scheme(leaves)
    names = scheme.official_names(leaves)
    state = {}
    for path, leaf in leaves.items():
        array = np.asarray(jax.device_get(leaf))
        parts = array if LAYER in names[path] else [array]
        for tensor, part in zip(_tensors(names[path], leaf), parts, strict=True):
            state[tensor] = scheme.to_official(path, part)
    return state


def _scheme(paths: Iterable[str]) -> ModuleType:
    """The module with the names and layouts of the released code that the paths correspond to."""
    return semanticist_names if semanticist_names.is_semanticist(paths) else torch_names


def _tensors(name: str, leaf) -> list[str]:
    """Official names of a leaf's tensors: several where it stacks the layers of a network."""
    return [name.replace(LAYER, str(i)) for i in range(leaf.shape[0])] if LAYER in name else [name]


def _tensor_shape(name: str, leaf) -> tuple[int, ...]:
    return tuple(leaf.shape[1:] if LAYER in name else leaf.shape)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Official name -> array from a .safetensors, .npz, .pt, .pth, .ckpt, .bin or .pkl file.

    A nested training checkpoint is opened at "ema", "model" or "state_dict", the first that exists,
    and the parts "module." and "_orig_mod." are removed from names.

    Raises:
      ValueError: no such file, unknown kind of file, a damaged file, a file that holds more than
        tensors and plain values, two tensors of one name, or torch is missing.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of weights file; choose from {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    read = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix, _read_torch)
    stored = read(path)
    state = {_without_wrappers(name): array for name, array in stored.items()}
    if not state:
        raise ValueError(f"{path}: holds no tensors")
    if len(state) != len(stored):
        raise ValueError(f"{path}: two tensors have one name once {WRAPPERS} are left out")
    return state


def write_state_dict(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes name -> array as .safetensors, .npz, or .pt, .pth or .ckpt, those under "model".

    Raises:
      ValueError: for other suffixes, when the file cannot be written, or torch is missing.
    """
    path = Path(path).expanduser()
    if path.suffix not in WRITERS:
        raise ValueError(
            f"{path}: cannot write this kind of file; choose from {', '.join(WRITERS)}"
        )
    WRITERS[path.suffix](path, state)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or no safetensors file ({_one_line(error)})") from error


def _write_safetensors(path: Path, state: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError

    try:
        save_arrays(path, state)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be written: {_one_line(error)}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: damaged or no .npz file ({_one_line(error)})") from error


def _write_npz(path: Path, state: Mapping[str, np.ndarray]) -> None:
    try:
        np.savez(path, **state)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {_one_line(error)}") from error


WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".pt": write_torch,
    ".pth": write_torch,
    ".ckpt": write_torch,
}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: reading {path.suffix} needs torch: install it (pip install torch) "
            "or convert the file to .safetensors elsewhere"
        ) from error
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: damaged or no PyTorch checkpoint of tensors alone; stored objects could run "
            "code and are not read"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: damaged or no PyTorch checkpoint ({_one_line(error)})"
        ) from error
    state = select_state(checkpoint, torch.Tensor)
    if not state:
        raise ValueError(f"{path}: holds no state dict, at its top or under one of {list(NESTED)}")
    # NumPy has no bfloat16, and parameters are float32 here anyway.
    return {
        name: (value.float() if value.is_floating_point() else value).detach().numpy()
        for name, value in state.items()
    }


def select_state(checkpoint: Any, tensor_type: type) -> dict[str, Any]:
    """The state dict in a checkpoint: itself or under the first of `NESTED`; {} if neither."""
    candidates = [checkpoint]
    if isinstance(checkpoint, Mapping):
        candidates += [checkpoint[key] for key in NESTED if key in checkpoint]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            if all(isinstance(value, tensor_type) for value in candidate.values()):
                return dict(candidate)
    return {}


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
