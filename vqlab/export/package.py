"""An exported tokenizer or generator: a folder for jax, flax, einops, jaxtyping and safetensors.

model.safetensors  every array under its path, such as `params/encoder/project_in/conv/kernel`
config.json        the model node, from which `vqlab.models.build` makes the module
README.md          a model card, see card.py
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

import vqlab
from vqlab import models
from vqlab.export.card import UNKNOWN_LICENSE, check_license, model_type, write_card
from vqlab.export.files import require_free, save_arrays
from vqlab.export.fingerprint import fingerprint
from vqlab.export.strict import check_finite
from vqlab.models.codec import Card, Weights
from vqlab.models.dtypes import FLOAT32, describe_dtypes, with_dtype
from vqlab.models.generator import in_use

# By what is exported.
FORMATS = {"tokenizer": "vqlab-tokenizer-1", "generator": "vqlab-generator-1"}
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
# What the Hub calls arrays in the layouts of Flax.
_METADATA = {"format": "flax"}


class Package(NamedTuple):
    """A tokenizer or a generator as it is stored.

    node: its config node. weights: as NumPy arrays. sampling: how it decodes or samples by default,
    as arguments of `Sampling.of` or `GeneratorSampling.of`; {} for one that does not.
    """

    node: dict[str, Any]
    weights: Weights
    sampling: dict[str, Any]


def is_package(path: str | pathlib.Path) -> bool:
    """Whether `path` is a folder written by `save_package`, complete or not."""
    return (pathlib.Path(path).expanduser() / WEIGHTS_FILE).exists()


def save_package(
    path: str | pathlib.Path,
    package: Package,
    facts: Mapping[str, Any] | None = None,
    dtype: str = FLOAT32,
    license: str = UNKNOWN_LICENSE,
) -> pathlib.Path:
    """Writes the folder.

    Args:
      path: the folder: a new or empty one, or a package, which is replaced.
      package: what to write.
      facts: further rows of the model card.
      dtype: what activations are computed in where it is loaded, "float32" or "bfloat16"; "config"
        for what the node says, which is what the model was trained in.
      license: of the weights, an identifier of the Hugging Face Hub's list, such as "apache-2.0".

    Raises:
      ValueError: when the folder holds something else, or cannot be written; an unknown dtype; NaN
        or infinite weights; a license that is no identifier.
    """
    path = pathlib.Path(path).expanduser()
    package = package._replace(node=with_dtype(package.node, dtype))
    require_free(path, WEIGHTS_FILE)
    check_license(license)
    card, facts = _card(package), dict(facts or {})
    arrays = flatten(package.weights)
    check_finite(arrays, f"{path}, not written,")
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_arrays(path / WEIGHTS_FILE, arrays, _METADATA)
        (path / CONFIG_FILE).write_text(json.dumps(_config(package, card, facts), indent=2) + "\n")
        (path / CARD_FILE).write_text(write_card(path.name, card, facts, license))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return path


def _card(package: Package) -> Card:
    """What the codec says, and what is known of its weights."""
    card = in_use(models.build(package.node), package.sampling).card()
    params = jax.tree.leaves(package.weights.variables["params"])
    known = {
        "parameters": f"{sum(array.size for array in params):,}",
        "computes in": describe_dtypes(package.node),
    }
    return card._replace(facts=card.facts | known)


def _config(package: Package, card: Card, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMATS[card.noun],
        "library_name": "vqlab",
        "library_version": vqlab.__version__,
        "model_type": model_type(card),
        "model": package.node,
        "sampling": dict(package.sampling),
        "fingerprints": fingerprints(package.node, package.weights.frozen),
        "facts": facts,
    }


def read_config(path: str | pathlib.Path, where: str | None = None) -> dict[str, Any]:
    """The config.json of a folder, which is called `where` in errors.

    Raises:
      ValueError: there is none, or it is no exported tokenizer's.
    """
    path, where = pathlib.Path(path), where or path
    try:
        saved = json.loads((path / CONFIG_FILE).read_text())
    except OSError as error:
        raise ValueError(f"{where} is no exported tokenizer: {error}") from error
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{where} is truncated or no exported tokenizer: {error}") from error
    format = saved.get("format") if isinstance(saved, dict) else None
    if format not in FORMATS.values():
        raise ValueError(
            f"{where} is no exported tokenizer: its {CONFIG_FILE} says format {format!r}, "
            f"known: {', '.join(FORMATS.values())}"
        )
    return saved


def load_package(path: str | pathlib.Path) -> Package:
    """What a folder holds.

    Raises:
      ValueError: no such folder, a file that is cut short, arrays that are not the model's, or NaN.
    """
    path = pathlib.Path(path).expanduser()
    saved = read_config(path)
    try:
        flat = load_file(path / WEIGHTS_FILE)
    except OSError as error:
        raise ValueError(f"{path} is no exported tokenizer: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no exported tokenizer: {error}") from error
    wanted = abstract_weights(models.build(saved["model"]))
    check_arrays(flatten(wanted), flat, str(path))
    check_finite(flat, str(path))
    collections = traverse_util.unflatten_dict(flat, sep="/")
    frozen = {name: collections.pop(name) for name in wanted.frozen}
    check_fingerprints(saved.get("fingerprints", {}), saved["model"], frozen, str(path))
    return Package(saved["model"], Weights(collections, frozen), saved.get("sampling", {}))


def fingerprints(node: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, str]:
    """{name: fingerprint} of the frozen parts that have a node in the model's, such as tokenizers.

    Whatever they compute in: of a tokenizer in float32 it is that of its records.
    """
    return {
        name: fingerprint(with_dtype(node[name], FLOAT32), variables)
        for name, variables in frozen.items()
        if name in node
    }


def check_fingerprints(
    wanted: Mapping[str, str], node: Mapping[str, Any], frozen: Mapping[str, Any], where: str
) -> None:
    """Raises ValueError where a frozen part is not the one that the network was trained with."""
    for name, made in fingerprints(node, frozen).items():
        if wanted.get(name, made) != made:
            raise ValueError(
                f"{where} holds another {name.replace('_', ' ')} than it was trained with: "
                f"fingerprint {made}, trained with {wanted[name]}"
            )


def flatten(weights: Weights) -> dict[str, Any]:
    """{path: array}: `params/...` and the other collections, `NAME/params/...` of frozen parts."""
    return traverse_util.flatten_dict({**weights.variables, **weights.frozen}, sep="/")


def abstract_variables(module: nn.Module) -> dict[str, Any]:
    """Shapes of what `module.init` makes, by collection; nothing is computed."""
    side = module.example_side
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), image))


def abstract_weights(module: nn.Module) -> Weights:
    """Shapes of all that belongs to a network, its frozen parts among it."""
    parts = module.frozen_parts()
    frozen = {name: abstract_variables(part) for name, part in parts.items()}
    return Weights(abstract_variables(module), frozen)


def check_variables(module: nn.Module, variables: Mapping[str, Any], where: str) -> None:
    """Raises a ValueError that lists what is not as `module.init` would make it."""
    flat = (traverse_util.flatten_dict(x, sep="/") for x in (abstract_variables(module), variables))
    check_arrays(*flat, where)


def check_arrays(wanted: Mapping[str, Any], flat: Mapping[str, Any], where: str) -> None:
    """Raises a ValueError that lists missing, unexpected and misshapen arrays.

    Those of another dtype than the model's are listed too, with theirs: nothing is rounded.
    """
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
