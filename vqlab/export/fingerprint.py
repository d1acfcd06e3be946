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
