"""A short name for a network's exact weights and settings, to tell what made stored arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

DIGITS = 16  # hexadecimal; 64 bits tell networks apart, and can be compared by eye


def fingerprint(node: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over config and arrays.

    Depends on every setting and on each array's name, shape, dtype and bytes; not on the order in
    which they are held. A list is the same as a tuple.

    Args:
      node: the network's config node, as a nested dict.
      variables: its arrays, as nested dicts.
    """
    digest = hashlib.sha256(json.dumps(node, sort_keys=True).encode())
    for name, leaf in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        array = np.asarray(leaf, order="C")
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()[:DIGITS]


def latent_fingerprints(
    model: Mapping[str, Any], frozen: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """(fingerprint, the network in words) of each array that a Semanticist trains from.

    "moments" for the autoencoder of its latent space, if it has one, and "repa_features" for
    DINOv2, if its weights are there.

    Args:
      model: the config node of the whole model, as a nested dict.
      frozen: parameters of the networks that are never trained, "latent_space" and "repa".
    """
    made = {}
    if "autoencoder" in model["latent_space"]:
        node = model["latent_space"]["autoencoder"]
        made["moments"] = fingerprint(node, frozen["latent_space"]), "autoencoder"
    if "repa" in frozen:
        made["repa_features"] = fingerprint({"name": "dinov2"}, frozen["repa"]), "DINOv2"
    return made
