"""Parameters of KL autoencoders from published files, strictly, and back.

Read are LDM's model.ckpt of kl-f16, MAR's kl16.ckpt and diffusers' AutoencoderKL of the same
networks (`diffusion_pytorch_model.safetensors`), in either of two namings (kl_names.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export.kl_names import current_name, detect_naming, kl_names
from vqlab.export.package import abstract_variables
from vqlab.export.state_dicts import read_state_dict
from vqlab.export.strict import check_fit

# A training checkpoint of LDM also holds the networks of its losses.
_LOSSES = "loss."


def read_kl(path: str | Path, autoencoder: nn.Module, weights: str = "") -> dict:
    """Parameters of `autoencoder`, a `Tokenizer` with `KLEncoder` and `KLDecoder`, from a file.

    Args:
      path: the file, or the folder of diffusers' `save_pretrained`.
      autoencoder: whose parameters they are.
      weights: which part of the file; see `read_state_dict`.

    Raises:
      ValueError: the file cannot be read or does not fit; one line with the names.
    """
    state = read_state_dict(path, weights)
    try:
        return kl_from_state(state, abstract_variables(autoencoder)["params"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def kl_from_state(state: Mapping[str, np.ndarray], template: Mapping[str, Any]) -> dict:
    """Parameters as a nested dict of float32 arrays, from a state dict in either naming.

    Args:
      state: official name -> array in the official layout.
      template: the model's parameters or their shapes.

    Raises:
      ValueError: one line with every missing and unexpected name and every shape that differs.
    """
    state = {
        current_name(name): value for name, value in state.items() if not name.startswith(_LOSSES)
    }
    naming = detect_naming(state)
    leaves = flatten_dict(template, sep="/")
    names = kl_names(leaves, naming)
    shapes = {
        names[path]: _to_official(path, np.broadcast_to(np.float32(0), leaf.shape), naming).shape
        for path, leaf in leaves.items()
    }
    check_fit(shapes, state, "the KL autoencoder")
    flat = {path: _from_official(path, state[names[path]]) for path in leaves}
    return unflatten_dict(flat, sep="/")


def kl_to_state(params: Mapping[str, Any], naming: str = "ldm") -> dict[str, np.ndarray]:
    """Official name -> array in the official layout; `naming` is "ldm" or "diffusers"."""
    leaves = flatten_dict(params, sep="/")
    names = kl_names(leaves, naming)
    return {
        names[path]: np.array(_to_official(path, jax.device_get(leaf), naming), order="C")
        for path, leaf in leaves.items()
    }


def _to_official(path: str, array: np.ndarray, naming: str) -> np.ndarray:
    """HWIO kernels become OIHW, or OI for attention in diffusers, which has linear layers there."""
    if not path.endswith("/kernel"):
        return np.asarray(array)
    kernel = np.transpose(array, (3, 2, 0, 1))
    is_linear = naming == "diffusers" and re.search(r"/attention\d*/\w+/kernel$", path)
    return kernel[:, :, 0, 0] if is_linear else kernel


def _from_official(path: str, array: np.ndarray) -> np.ndarray:
    """Undoes `_to_official`."""
    array = np.asarray(array, np.float32)
    if path.endswith("/kernel"):
        if array.ndim == 2:
            array = array[:, :, None, None]
        array = array.transpose(2, 3, 1, 0)
    return np.array(array, order="C")
