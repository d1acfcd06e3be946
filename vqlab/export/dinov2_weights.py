"""DINOv2's parameters from the official file, dinov2_vitb14_pretrain.pth, strictly."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vqlab.export.state_dicts import read_state_dict
from vqlab.export.strict import check_fit
from vqlab.models.conv_autoencoder import IMAGE_CHANNELS
from vqlab.models.pretrained.dinov2 import DINOv2

# Path of a parameter -> official name; {i} is the number of the block.
NAMES = {
    "cls_token": "cls_token",
    "position_embed": "pos_embed",
    "patch_embed/kernel": "patch_embed.proj.weight",
    "patch_embed/bias": "patch_embed.proj.bias",
    "blocks/norm1/scale": "blocks.{i}.norm1.weight",
    "blocks/norm1/bias": "blocks.{i}.norm1.bias",
    "blocks/attention/qkv/kernel": "blocks.{i}.attn.qkv.weight",
    "blocks/attention/qkv/bias": "blocks.{i}.attn.qkv.bias",
    "blocks/attention/proj/kernel": "blocks.{i}.attn.proj.weight",
    "blocks/attention/proj/bias": "blocks.{i}.attn.proj.bias",
    "blocks/scale1": "blocks.{i}.ls1.gamma",
    "blocks/norm2/scale": "blocks.{i}.norm2.weight",
    "blocks/norm2/bias": "blocks.{i}.norm2.bias",
    "blocks/mlp/fc1/kernel": "blocks.{i}.mlp.fc1.weight",
    "blocks/mlp/fc1/bias": "blocks.{i}.mlp.fc1.bias",
    "blocks/mlp/fc2/kernel": "blocks.{i}.mlp.fc2.weight",
    "blocks/mlp/fc2/bias": "blocks.{i}.mlp.fc2.bias",
    "blocks/scale2": "blocks.{i}.ls2.gamma",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
# Stands in for masked patches in DINOv2's own training.
_IGNORED = "mask_token"


def read_dinov2(path: str | Path, network: DINOv2) -> dict:
    """The variables of `network`, {"params": ...}, from a .pth or .safetensors file.

    Raises:
      ValueError: the file cannot be read or does not fit; one line with the names.
    """
    state = read_state_dict(path)
    try:
        return dinov2_from_state(state, network)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def dinov2_from_state(state: Mapping[str, np.ndarray], network: DINOv2) -> dict:
    """{"params": ...} of float32 arrays from official names; errors as in `read_dinov2`."""
    side = network.resolution
    images = jax.ShapeDtypeStruct((1, side, side, IMAGE_CHANNELS), jnp.float32)
    template = flatten_dict(
        jax.eval_shape(network.init, jax.random.key(0), images)["params"], sep="/"
    )
    state = {name: np.asarray(value) for name, value in state.items() if name != _IGNORED}
    shapes = {
        name: _official_shape(path, leaf.shape)
        for path, leaf in template.items()
        for name in _names(path, network.depth)
    }
    check_fit(shapes, state, "DINOv2")
    flat = {}
    for path, leaf in template.items():
        layers = [_from_official(path, state[name]) for name in _names(path, network.depth)]
        flat[path] = np.concatenate(layers).astype(np.float32).reshape(leaf.shape)
    return {"params": unflatten_dict(flat, sep="/")}


def _names(path: str, depth: int) -> list[str]:
    """Official names of the tensors that the array at `path` is made of, one a block."""
    if path.startswith("blocks/"):
        return [NAMES[path].format(i=i) for i in range(depth)]
    return [NAMES[path]]


def _official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path.startswith("blocks/"):
        shape = shape[1:]
    if path == "cls_token":
        return (1, 1, *shape)
    if path == "position_embed":
        return (1, *shape)
    if path == "patch_embed/kernel":
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return shape[::-1]


def _from_official(path: str, array: np.ndarray) -> np.ndarray:
    """A tensor in vqlab's layout, with an axis in front to join blocks along."""
    if path == "patch_embed/kernel":
        array = array.transpose(2, 3, 1, 0)  # OIHW -> HWIO
    elif path.endswith("/kernel"):
        array = array.T
    return array[None]
