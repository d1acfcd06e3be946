"""LPIPS parameters from the official files, strictly, and back into one file.

Two files hold the official network: torchvision's VGG-16 (`vgg16-397923af.pth`, tensors
`features.0.weight` ...) and the linear heads of the lpips package (`weights/v0.1/vgg.pth`, tensors
`lin0.model.1.weight` ...). They are named together, "vgg16.pth,vgg.pth", or converted once with
`save_lpips` into a single .safetensors file in the same names. The state dict of a whole
`lpips.LPIPS(net="vgg")` module is read as well.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export.state_dicts import read_state_dict
from vqlab.export.strict import check_finite, check_floats
from vqlab.export.torch_weights import write_state_dict
from vqlab.models.pretrained import lpips

# Position of each convolution in torchvision's `vgg16().features`, where ReLUs and pools count too.
_VGG_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

# Known names that hold nothing LPIPS needs: the classifier, and constants kept as buffers.
_IGNORED = re.compile(r"classifier\.[036]\.(weight|bias)|scaling_layer\.(shift|scale)")

# Other spellings of the same tensors: a whole LPIPS module, heads built without dropout.
_SPELLINGS = (
    (re.compile(r"^net\.slice[1-5]\.(\d+)\.(weight|bias)$"), r"features.\1.\2"),
    (re.compile(r"^lins?\.?([0-4])\.model\.[01]\.weight$"), r"lin\1.model.1.weight"),
)


def read_lpips(paths: str) -> dict:
    """Reads one file, or more with commas between, into the tree of `lpips.param_shapes()`.

    Raises:
      ValueError: a file cannot be read, or a tensor is missing, unexpected, of a wrong shape, or
        given twice with different values, or holds integers, NaN or infinity; one message lists
        the names.
    """
    tensors: dict[str, np.ndarray] = {}
    for path in paths.split(","):
        _merge(tensors, read_state_dict(path.strip()), source=path.strip())
    return _to_params(tensors, source=paths)


def save_lpips(path: str | Path, params: dict) -> None:
    """Writes `params` into one .safetensors or .npz file that `read_lpips` reads again."""
    write_state_dict(path, to_state_dict(params))


def to_state_dict(params: dict) -> dict[str, np.ndarray]:
    """`lpips.param_shapes()` -> official names, OIHW kernels, each tensor once."""
    flat = flatten_dict(params)
    state_dict = {}
    for name, path in _names().items():
        value = np.asarray(flat[path], np.float32)
        if path[-1] == "kernel":
            value = value.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        elif path[0] == "heads":
            value = value.reshape(1, -1, 1, 1)
        state_dict[name] = np.ascontiguousarray(value)
    return state_dict


def _names() -> dict[str, tuple[str, ...]]:
    """Official tensor name -> path in the parameter tree."""
    shapes = lpips.param_shapes()
    names = {}
    for position, conv in zip(_VGG_POSITIONS, shapes["vgg"], strict=True):
        names[f"features.{position}.weight"] = ("vgg", conv, "kernel")
        names[f"features.{position}.bias"] = ("vgg", conv, "bias")
    for i, head in enumerate(shapes["heads"]):
        names[f"lin{i}.model.1.weight"] = ("heads", head)
    return names


def _merge(tensors: dict[str, np.ndarray], state_dict: Mapping, *, source: str) -> None:
    """Adds `state_dict` under canonical names, leaving out what `_IGNORED` matches."""
    for name, value in state_dict.items():
        if _IGNORED.fullmatch(name):
            continue
        for pattern, canonical in _SPELLINGS:
            name = pattern.sub(canonical, name)
        if name in tensors and not np.array_equal(tensors[name], value):
            raise ValueError(f"{source}: {name} is given twice with different values")
        tensors[name] = np.asarray(value)


def _to_params(tensors: dict[str, np.ndarray], *, source: str) -> dict:
    names = _names()
    missing = [name for name in names if name not in tensors]
    unexpected = [name for name in tensors if name not in names]
    if missing or unexpected:
        raise ValueError(
            f"{source} is not LPIPS with VGG-16: missing {missing}; unexpected {unexpected}"
        )
    check_floats(tensors, source)
    check_finite(tensors, source)
    shapes = flatten_dict(lpips.param_shapes())
    flat, wrong = {}, []
    for name, path in names.items():
        value, shape = tensors[name].astype(np.float32), shapes[path]
        if path[-1] == "kernel" and value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        elif path[0] == "heads" and value.shape == (1, *shape, 1, 1):
            value = value.reshape(shape)
        if value.shape != shape:
            wrong.append(f"{name} {tensors[name].shape}")
        flat[path] = np.ascontiguousarray(value)
    if wrong:
        raise ValueError(f"{source} has tensors of a wrong shape: {', '.join(wrong)}")
    return unflatten_dict(flat)
