"""An exported tokenizer: a folder that another machine can load with jax and flax alone.

model.safetensors  every array under its path, such as `params/encoder/project_in/conv/kernel`
config.json        the model node, from which `vqlab.models.build` makes the module
README.md          a model card
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vqlab import models

FORMAT = "vqlab-tokenizer-1"
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"

_CARD = """# {name}

An image tokenizer exported by vqlab: MGVQ, grouped codebooks on a convolutional autoencoder.

| | |
|---|---|
| groups x codewords per group | {num_groups} x {codebook_size} |
| stride | {stride} pixels |
| bits per pixel | {bits:.4f} |
| parameters | {parameters:,} |
{facts}
```python
import vqlab

tokenizer = vqlab.load("{name}")
indices = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, {num_groups}] int32
images = tokenizer.decode(indices, num_groups={num_groups})  # fewer groups: coarser
```
"""


def is_package(path: str | pathlib.Path) -> bool:
    """Whether `path` is a folder written by `save_package`, complete or not."""
    return (pathlib.Path(path) / WEIGHTS_FILE).exists()


def save_package(
    path: str | pathlib.Path,
    node: Mapping[str, Any],
    params: Mapping,
    variables: Mapping,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the folder; `facts` are further rows of the model card.

    Raises:
      ValueError: when the folder cannot be written.
    """
    path = pathlib.Path(path)
    flat = traverse_util.flatten_dict({"params": params, **variables}, sep="/")
    arrays = {name: np.array(array, order="C") for name, array in flat.items()}
    config = {"format": FORMAT, "model": node, "facts": dict(facts or {})}
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file(arrays, path / WEIGHTS_FILE)
        (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (path / CARD_FILE).write_text(_card(path.name, node, params, facts or {}))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _card(name: str, node: Mapping, params: Mapping, facts: Mapping[str, Any]) -> str:
    quantizer = node["quantizer"]
    stride = models.build(node).stride
    return _CARD.format(
        name=name,
        num_groups=quantizer["num_groups"],
        codebook_size=quantizer["codebook_size"],
        stride=stride,
        bits=quantizer["num_groups"] * np.log2(quantizer["codebook_size"]) / stride**2,
        parameters=sum(array.size for array in jax.tree.leaves(params)),
        facts="".join(f"| {key} | {value} |\n" for key, value in facts.items()),
    )


def load_package(path: str | pathlib.Path) -> tuple[dict, dict, dict]:
    """(model node, params, variables) of a folder, as NumPy arrays.

    Raises:
      ValueError: no such folder, a file that is cut short, or arrays that are not the model's.
    """
    path = pathlib.Path(path)
    try:
        saved = json.loads((path / CONFIG_FILE).read_text())
        flat = load_file(path / WEIGHTS_FILE)
    except OSError as error:
        raise ValueError(f"{path} is no exported tokenizer: {error}") from error
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{path} is truncated or no exported tokenizer: {error}") from error
    if saved.get("format") != FORMAT:
        raise ValueError(f"{path} has format {saved.get('format')!r}; known: {FORMAT}")
    check_arrays(models.build(saved["model"]), flat, str(path))
    collections = traverse_util.unflatten_dict(flat, sep="/")
    params = collections.pop("params")
    return saved["model"], params, collections


def abstract_variables(tokenizer) -> dict:
    """Shapes of everything that `tokenizer.init` makes, by collection; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, 2 * tokenizer.stride, 2 * tokenizer.stride, 3), np.float32)
    return jax.eval_shape(tokenizer.init, jax.random.key(0), image)


def check_arrays(tokenizer, flat: Mapping[str, np.ndarray], where: str) -> None:
    """Raises a ValueError that lists missing, unexpected and misshapen arrays."""
    wanted = traverse_util.flatten_dict(abstract_variables(tokenizer), sep="/")
    shared = wanted.keys() & flat.keys()
    faults = {
        "missing": sorted(wanted.keys() - flat.keys()),
        "unexpected": sorted(flat.keys() - wanted.keys()),
        "of another shape": sorted(n for n in shared if wanted[n].shape != flat[n].shape),
    }
    text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if text:
        raise ValueError(f"{where} does not fit its model: {text}")
