"""State dicts of the released PyTorch MGVQ: reading, writing, and conversion both ways.

Conversion is strict: every tensor is used once, and what does not fit is listed whole. torch is
imported only to read .pt, .pth and .bin files.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export.torch_names import from_official, official_names, official_shape, to_official

# A training checkpoint nests its state dicts; the first of these that exists is read. Averaged
# weights come first because they are the ones evaluated.
NESTED = ("ema", "model", "state_dict")
# Left on every name by torch.nn.parallel and torch.compile.
PREFIXES = ("module.", "_orig_mod.")
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)


def from_torch_state(
    state: Mapping[str, np.ndarray], template: Mapping[str, Any]
) -> tuple[dict, dict]:
    """(params, variables) of a tokenizer from an official state dict.

    Args:
      state: official name -> array in the official layout.
      template: the model's variables or their shapes, as from jax.eval_shape(model.init, ...),
        with the collections "params", "batch_stats" and "codebook_stats".

    Returns:
      `params`, and `variables` with the other collections, as nested dicts of NumPy arrays.

    Raises:
      ValueError: one line with every missing and unexpected name and every shape that differs.
    """
    leaves = flatten_dict(template, sep="/")
    names = official_names(leaves)
    shapes = {names[path]: official_shape(path, leaf.shape) for path, leaf in leaves.items()}
    problems = {
        "missing": sorted(shapes.keys() - state.keys()),
        "unexpected": sorted(state.keys() - shapes.keys()),
        "wrong shape": [
            f"{name} {tuple(state[name].shape)} instead of {shape}"
            for name, shape in sorted(shapes.items())
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(f"the state dict does not fit the model: {listed}")
    flat = {
        path: from_official(path, np.asarray(state[names[path]]), leaf.shape, leaf.dtype)
        for path, leaf in leaves.items()
    }
    variables = unflatten_dict(flat, sep="/")
    return variables.pop("params"), variables


def to_torch_state(
    params: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The official state dict of a tokenizer's parameters and other collections."""
    leaves = flatten_dict({"params": params, **variables}, sep="/")
    names = official_names(leaves)
    return {names[path]: to_official(path, jax.device_get(leaf)) for path, leaf in leaves.items()}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Official name -> array from a .safetensors, .npz, .pt, .pth or .bin file.

    A nested training checkpoint is opened at "ema", "model" or "state_dict", the first that exists,
    and the prefixes "module." and "_orig_mod." are removed from names.

    Raises:
      ValueError: no such file, unknown kind of file, a damaged file, or torch is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of weights file; choose from {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    read = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix, _read_torch)
    state = {_without_prefixes(name): array for name, array in read(path).items()}
    if not state:
        raise ValueError(f"{path}: holds no tensors")
    return state


def write_state_dict(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes name -> array as .safetensors or .npz; ValueError for other suffixes."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.array(array, order="C") for name, array in state.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **state)
    else:
        raise ValueError(f"{path}: cannot write this kind of file; choose .safetensors or .npz")


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or no safetensors file ({_one_line(error)})") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: damaged or no .npz file ({_one_line(error)})") from error


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
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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
