"""State dicts of the released PyTorch models: conversion both ways, and writing.

Conversion is strict: every tensor is used once, and what does not fit is listed whole.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export import gpt_names, semanticist_names, titok_names, torch_names
from vqlab.export.files import save_arrays
from vqlab.export.strict import check_finite, check_fit
from vqlab.export.torch_file import write_torch

# Stands for the number of a layer in the official name of a leaf that stacks all layers.
LAYER = "{}"


def from_torch_state(
    state: Mapping[str, np.ndarray], template: Mapping[str, Any]
) -> tuple[dict, dict]:
    """(params, variables) of a network from an official state dict.

    Args:
      state: official name -> array in the official layout. A whole checkpoint of Semanticist may
        also hold the networks around it (`semanticist_names.fitted_state`).
      template: the model's variables or their shapes, as from jax.eval_shape(model.init, ...),
        with all their collections. Its paths tell whose names are read.

    Returns:
      `params`, and `variables` with the other collections, as nested dicts of NumPy arrays.

    Raises:
      ValueError: one line with every missing and unexpected name and every shape that differs, or
        with the tensors that hold integers in the place of floats, NaN or infinity.
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
    integers = {
        tensor
        for path, leaf in leaves.items()
        if not np.issubdtype(leaf.dtype, np.floating)
        for tensor in _tensors(names[path], leaf)
    }
    check_fit(shapes, state, "the model", integers)

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
    """The official state dict of a network's parameters and other collections."""
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
    if gpt_names.is_second_stage(paths):
        return gpt_names
    if titok_names.is_titok(paths):
        return titok_names
    return semanticist_names if semanticist_names.is_semanticist(paths) else torch_names


def _tensors(name: str, leaf) -> list[str]:
    """Official names of a leaf's tensors: several where it stacks the layers of a network."""
    return [name.replace(LAYER, str(i)) for i in range(leaf.shape[0])] if LAYER in name else [name]


def _tensor_shape(name: str, leaf) -> tuple[int, ...]:
    return tuple(leaf.shape[1:] if LAYER in name else leaf.shape)


def write_state_dict(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes name -> array as .safetensors, .npz, or .pt, .pth or .ckpt, those under "model".

    Raises:
      ValueError: for other suffixes, for NaN or infinite weights, when the file cannot be written,
        or torch is missing.
    """
    path = Path(path).expanduser()
    if path.suffix not in WRITERS:
        raise ValueError(
            f"{path}: cannot write this kind of file; choose from {', '.join(WRITERS)}"
        )
    check_finite(state, f"{path}, not written,")
    WRITERS[path.suffix](path, state)


def _write_safetensors(path: Path, state: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError

    try:
        save_arrays(path, state)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be written: {_one_line(error)}") from error


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


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
