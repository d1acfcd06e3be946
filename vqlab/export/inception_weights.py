"""Inception's parameters from the files that users have, strictly, and back into one file.

- pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` and torch-fidelity's
  `weights-inception-2015-12-05-6726825d.pth`: state dicts under torchvision's names.
- clean-fid's and StyleGAN's `inception-2015-12-05.pt`: a TorchScript archive, of which the tensors
  are read and no code is run. Its names are TensorFlow's (`layers.mixed_1.tower.conv_1.weight`),
  and its BatchNorms have no scale.
- a .safetensors file that `vqlab.convert inception` wrote, in torchvision's names.

torchvision's own `inception_v3` has the names too, but another last layer: it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vqlab.export.state_dicts import read_state_dict
from vqlab.export.strict import check_fit
from vqlab.export.torch_weights import write_state_dict
from vqlab.models.pretrained.inception import param_shapes

BATCH_NORM_EPS = 0.001

# Last parts of the names of a convolution and of its BatchNorm, and TorchScript's.
_KERNEL = "conv.weight"
_NORM = {
    "bn.weight": "gamma",
    "bn.bias": "beta",
    "bn.running_mean": "mean",
    "bn.running_var": "var",
}
_IGNORED = re.compile(r".*\.num_batches_tracked")

# TensorFlow's names of the blocks, in order, and of the convolutions outside of blocks.
_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
# A branch's convolution, without its number, -> TensorFlow's name of the branch.
_TOWERS = {
    "5": {"branch5x5": "tower", "branch3x3dbl": "tower_1", "branch_pool": "tower_2"},
    "6a": {"branch3x3": "", "branch3x3dbl": "tower"},
    "6": {"branch7x7": "tower", "branch7x7dbl": "tower_1", "branch_pool": "tower_2"},
    "7a": {"branch3x3": "tower", "branch7x7x3": "tower_1"},
    "7": {"branch3x3": "tower", "branch3x3dbl": "tower_1", "branch_pool": "tower_2"},
}


def read_inception(path: str | Path) -> dict:
    """The parameters of `inception.param_shapes()`, float32, each BatchNorm folded in.

    Raises:
      ValueError: the file cannot be read or is of another network; one line with the names.
    """
    return params_from_official(read_official(path))


def read_official(path: str | Path) -> dict[str, np.ndarray]:
    """torchvision's names -> arrays; errors as in `read_inception`."""
    state = {n: x for n, x in read_state_dict(path).items() if not _IGNORED.fullmatch(n)}
    state = _from_torchscript(state)
    try:
        check_fit(official_shapes(), state, "FID's Inception of 2015")
    except ValueError as error:
        own = " (torchvision's own inception_v3 is another network)"
        hint = own if any(name.startswith("AuxLogits.") for name in state) else ""
        raise ValueError(f"{path}: {error}{hint}") from error
    return state


def convert_inception(source: str | Path, output: str | Path) -> None:
    """Writes what `read_inception` reads into one .safetensors or .npz file, as float32."""
    write_state_dict(output, read_official(source))


def official_shapes() -> dict[str, tuple[int, ...]]:
    """torchvision's names -> shapes."""
    shapes = {}
    for name, leaf in param_shapes().items():
        if name == "fc":
            shapes |= {"fc.weight": leaf["kernel"][::-1], "fc.bias": leaf["bias"]}
            continue
        height, width, inputs, outputs = leaf["kernel"]
        shapes[f"{name}.{_KERNEL}"] = (outputs, inputs, height, width)
        shapes |= {f"{name}.{part}": (outputs,) for part in _NORM}
    return shapes


def params_from_official(state: Mapping[str, np.ndarray]) -> dict:
    """`read_inception`'s parameters of a state dict that fits.

    Kernels times the scale of their BatchNorm, and its offsets as biases, worked out in float64.
    """
    params = {}
    for conv in _convolutions():
        gamma, beta, mean, var = (state[f"{conv}.{part}"].astype(np.float64) for part in _NORM)
        scale = gamma / np.sqrt(var + BATCH_NORM_EPS)
        kernel = state[f"{conv}.{_KERNEL}"].transpose(2, 3, 1, 0) * scale  # OIHW -> HWIO
        params[conv] = {
            "kernel": kernel.astype(np.float32),
            "bias": (beta - mean * scale).astype(np.float32),
        }
    params["fc"] = {"kernel": state["fc.weight"].T.copy(), "bias": state["fc.bias"]}
    return params


def torchscript_name(conv: str) -> str:
    """TorchScript's name of a convolution: "Mixed_5b.branch5x5_2" -> "layers.mixed.tower.conv_1".

    In the last two blocks the names of a branch are one word: "layers.mixed_9.tower_1_conv_1".
    """
    if conv.startswith("Conv2d_"):
        return f"layers.{_numbered('conv', _STEM.index(conv.removeprefix('Conv2d_')))}"
    block, branch = conv.removeprefix("Mixed_").split(".")
    front = f"layers.{_numbered('mixed', _BLOCKS.index(block))}."
    stem, _, number = branch.rpartition("_")
    if branch in ("branch1x1", "branch_pool") or not stem:
        stem, number = branch, "1"
    towers = _TOWERS.get(block) or _TOWERS[block[0]]
    tower = towers.get(stem, "")
    if number[-1:] in ("a", "b"):
        return f"{front}{tower}_{_numbered('mixed_conv', 'ab'.index(number[-1]))}"
    joint = "_" if block in ("7b", "7c") else "."
    return front + (tower + joint if tower else "") + _numbered("conv", int(number) - 1)


def _numbered(word: str, number: int) -> str:
    return f"{word}_{number}" if number else word


def _convolutions() -> list[str]:
    return [name for name in param_shapes() if name != "fc"]


def _from_torchscript(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """TorchScript's names as torchvision's, its missing scales as ones; others as they are."""
    if "layers.conv.weight" not in state:
        return dict(state)
    renamed = {"output.weight": "fc.weight", "output.bias": "fc.bias"}
    ones = {}
    for conv in _convolutions():
        front = torchscript_name(conv)
        renamed[f"{front}.weight"] = f"{conv}.{_KERNEL}"
        renamed |= {f"{front}.{theirs}": f"{conv}.{part}" for part, theirs in _NORM.items()}
        if f"{front}.gamma" not in state and f"{front}.beta" in state:
            ones[f"{conv}.bn.weight"] = np.ones_like(state[f"{front}.beta"])
    return {renamed.get(name, name): array for name, array in state.items()} | ones
