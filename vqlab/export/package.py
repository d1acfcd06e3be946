"""An exported tokenizer: a folder that loads with jax, flax, einops, jaxtyping and safetensors.

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
from safetensors.numpy import load_file

from vqlab import models
from vqlab.export.files import require_free, save_arrays
from vqlab.models.dtypes import FLOAT32, describe_dtypes, with_dtype

FORMAT = "vqlab-tokenizer-1"
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"

_CARD = """# {name}

An image tokenizer exported by vqlab: {kind}.

| | |
|---|---|
{rows}
```python
import vqlab

tokenizer = vqlab.load("{name}")
{usage}
```
"""
_USE_GROUPS = """\
indices = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, {groups}] int32
images = tokenizer.decode(indices, num_groups={groups})  # fewer groups: coarser"""
_USE_LATENTS = """\
latents = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, {channels}] float32
images = tokenizer.decode(latents)"""
_USE_CONCEPTS = """\
concepts = tokenizer.encode(images)  # [B, {size}, {size}, 3] in [-1, 1] -> [B, {total}, {dim}]
images = tokenizer.decode(concepts, num_concepts={total})  # fewer concepts: what matters most"""


def is_package(path: str | pathlib.Path) -> bool:
    """Whether `path` is a folder written by `save_package`, complete or not."""
    return (pathlib.Path(path).expanduser() / WEIGHTS_FILE).exists()


def save_package(
    path: str | pathlib.Path,
    node: Mapping[str, Any],
    params: Mapping,
    variables: Mapping,
    facts: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    dtype: str = FLOAT32,
) -> pathlib.Path:
    """Writes the folder.

    Args:
      path: the folder: a new or empty one, or a package, which is replaced.
      node: the model's config node.
      params: its parameters.
      variables: its other collections, and as "latent_space" the variables of a frozen autoencoder.
      facts: further rows of the model card.
      sampling: how a model that samples decodes by default.
      dtype: what activations are computed in where it is loaded, "float32" or "bfloat16"; "config"
        for what `node` says, which is what the model was trained in.

    Raises:
      ValueError: when the folder holds something else, or cannot be written; an unknown dtype.
    """
    path = pathlib.Path(path).expanduser()
    node = with_dtype(node, dtype)
    require_free(path, WEIGHTS_FILE)
    arrays = traverse_util.flatten_dict({"params": params, **variables}, sep="/")
    config = {"format": FORMAT, "model": node, "sampling": dict(sampling or {})}
    config["facts"] = dict(facts or {})
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_arrays(path / WEIGHTS_FILE, arrays)
        (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (path / CARD_FILE).write_text(_card(path.name, node, params, facts or {}))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return path


def _card(name: str, node: Mapping, params: Mapping, facts: Mapping[str, Any]) -> str:
    kind, rows, usage = _describe(node)
    rows["parameters"] = f"{sum(array.size for array in jax.tree.leaves(params)):,}"
    rows["computes in"] = describe_dtypes(node)
    rows |= facts
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    return _CARD.format(name=name, kind=kind, rows=table, usage=usage)


def _describe(node: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """(kind, rows, usage) of the card."""
    if node["name"] == "semanticist":
        encoder = node["encoder"]
        total, dim, size = (encoder[n] for n in ("num_concepts", "concept_dim", "image_size"))
        rows = {"concepts x numbers": f"{total} x {dim}", "image size": f"{size} pixels"}
        usage = _USE_CONCEPTS.format(total=total, dim=dim, size=size)
        return "Semanticist, ordered concepts and a diffusion decoder", rows, usage
    quantizer, stride = node["quantizer"], models.build(node).stride
    rows = {"stride": f"{stride} pixels"}
    if "codebook_size" not in quantizer:
        channels = quantizer["latent_channels"]
        kind = "a Gaussian bottleneck on a convolutional autoencoder"
        return kind, rows | {"latent channels": channels}, _USE_LATENTS.format(channels=channels)
    groups, size = quantizer["num_groups"], quantizer["codebook_size"]
    rows["groups x codewords per group"] = f"{groups} x {size}"
    rows["bits per pixel"] = f"{groups * np.log2(size) / stride**2:.4f}"
    kind = "MGVQ, grouped codebooks on a convolutional autoencoder"
    return kind, rows, _USE_GROUPS.format(groups=groups)


def load_package(path: str | pathlib.Path) -> tuple[dict, dict, dict]:
    """(model node, params, variables) of a folder, as NumPy arrays.

    Raises:
      ValueError: no such folder, a file that is cut short, or arrays that are not the model's.
    """
    path = pathlib.Path(path).expanduser()
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


def load_sampling(path: str | pathlib.Path) -> dict[str, Any]:
    """How the model in a folder decodes by default; {} for one that does not sample."""
    file = pathlib.Path(path).expanduser() / CONFIG_FILE
    return json.loads(file.read_text()).get("sampling", {})


def abstract_variables(model) -> dict:
    """Shapes of everything that belongs to a model, by collection; nothing is computed.

    That is what `model.init` makes, and for Semanticist the autoencoder of its latent space.
    """
    space = getattr(model, "latent_space", None)
    side = 2 * model.stride if space is None else model.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    collections = dict(jax.eval_shape(model.init, jax.random.key(0), image))
    autoencoder = getattr(space, "autoencoder", None)
    if autoencoder is not None:
        collections["latent_space"] = abstract_variables(autoencoder)
    return collections


def check_arrays(model, flat: Mapping[str, np.ndarray], where: str) -> None:
    """Raises a ValueError that lists missing, unexpected and misshapen arrays.

    Those of another dtype than the model's are listed too, with theirs: nothing is rounded.
    """
    wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
    shared = wanted.keys() & flat.keys()
    faults = {
        "missing": sorted(wanted.keys() - flat.keys()),
        "unexpected": sorted(flat.keys() - wanted.keys()),
        "of another shape": sorted(n for n in shared if wanted[n].shape != flat[n].shape),
        "of another dtype": [
            f"{n} ({flat[n].dtype} instead of {wanted[n].dtype})"
            for n in sorted(shared)
            if wanted[n].dtype != flat[n].dtype
        ],
    }
    text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if text:
        raise ValueError(f"{where} does not fit its model: {text}")
