"""What a model computes in: the dtype of activations that its config node says.

Parameters are float32 whatever it is, as are the parts that say so (quantizers, softmax, norms).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vqlab.models import MODULES

FLOAT32 = "float32"
# Leaves every part what the node says; training configs say bfloat16.
AS_CONFIGURED = "config"
DTYPES = (FLOAT32, "bfloat16", AS_CONFIGURED)


def with_dtype(node: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The node of the same model with all activations in `dtype`; see `DTYPES`.

    A frozen autoencoder in it is a part like the others. Raises ValueError for another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; choose from {', '.join(DTYPES)}")
    return dict(node) if dtype == AS_CONFIGURED else _changed(node, dtype)


def describe_dtypes(node: Mapping[str, Any]) -> str:
    """What the parts of the model compute in, such as "float32" or "bfloat16 and float32"."""
    return " and ".join(sorted(_dtypes(node)))


def _changed(value: Any, dtype: str) -> Any:
    if isinstance(value, Mapping):
        own = {"dtype": dtype} if _has_dtype(value) else {}
        return {name: _changed(inner, dtype) for name, inner in value.items()} | own
    if isinstance(value, list | tuple):
        return type(value)(_changed(inner, dtype) for inner in value)
    return value


def _dtypes(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        own = {value.get("dtype", FLOAT32)} if _has_dtype(value) else set()
        return own.union(*map(_dtypes, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_dtypes, value))
    return set()


def _has_dtype(node: Mapping[str, Any]) -> bool:
    """Whether the part takes a dtype; an unknown one is for `build` to name."""
    part = MODULES.get(node.get("name"))
    return part is not None and "dtype" in [field.name for field in dataclasses.fields(part)]
