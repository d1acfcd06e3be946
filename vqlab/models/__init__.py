"""Whole networks, and `build`, which makes them from configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vqlab.models.conv_autoencoder import ConvDecoder, ConvEncoder
from vqlab.models.discriminator import PatchDiscriminator
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.quantizers import GroupedQuantizer

MODULES: dict[str, type[nn.Module]] = {
    "conv_encoder": ConvEncoder,
    "conv_decoder": ConvDecoder,
    "grouped_quantizer": GroupedQuantizer,
    "patch_discriminator": PatchDiscriminator,
    "tokenizer": Tokenizer,
}


def build(node: Any) -> nn.Module:
    """The module that a config node describes: MODULES[node["name"]] with the node's other entries.

    A node is a ConfigDict or dict. Inner nodes are built first and lists become tuples, so a node
    read from JSON gives the same module. Raises ValueError for an unknown name and for unknown or
    missing arguments.
    """
    arguments = dict(node.items())
    name = arguments.pop("name", None)
    if name not in MODULES:
        raise ValueError(f"unknown module {name!r}; choose from {sorted(MODULES)}")
    _check_arguments(name, set(arguments))
    return MODULES[name](**{key: _value(value) for key, value in arguments.items()})


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) or hasattr(value, "items"):  # ConfigDict is no Mapping
        return build(value)
    if isinstance(value, list | tuple):
        return tuple(_value(item) for item in value)
    return value


def _check_arguments(name: str, given: set[str]) -> None:
    fields = [f for f in dataclasses.fields(MODULES[name]) if f.name not in ("name", "parent")]
    known = [field.name for field in fields]
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    if unknown := sorted(given - set(known)):
        raise ValueError(f"{name} has no arguments {unknown}; choose from {known}")
    if missing := sorted(required - given):
        raise ValueError(f"{name} lacks the arguments {missing}")
