"""The state dicts in a training checkpoint: plain ones and averages, wherever they are nested.

Found are those at its top or under the names below, and averages as these save them: timm and
BasicSR (a second state dict), LDM's LitEma (a module among the others), ema-pytorch (`ema_model.`
before each name), torch-ema and diffusers (`shadow_params`, a list without names) and hand-written
ones (`shadow`), with counters among the tensors or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vqlab.export.inert_pickle import Inert

# Names that a training checkpoint has for the plain state dict.
MODEL_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "params",
    "module",
    "net",
    "network",
    "weights",
)
# A name with one of these words is of averaged weights, unless it has one of the others.
_AVERAGED = {"ema", "shadow", "averaged", "swa"}
_OTHERS = {"optimizer", "optim", "opt", "scheduler", "scaler", "discriminator", "disc", "loss"}
# Dicts of further objects, in which only averages are looked for.
_CONTAINERS = ("callbacks",)
# The plain weights of ema-pytorch.
_ONLINE = "online_model."
# Names around a state dict; a dict that holds itself would have no end.
_DEPTH = 5
# Left in names, at the start or within, by torch.nn.parallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")
# Numbers that averages and training loops keep among the tensors.
_COUNTERS = re.compile(
    r"(global_|optimization_)?steps?|epoch|initted|decay|n_averaged|num_updates|num_batches"
)


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
      shape: of it.
      is_float: whether it holds floating-point numbers.
      read: gives the array.
      fault: why it cannot be read; "" if it can.
    """

    shape: tuple[int, ...]
    is_float: bool
    read: Callable[[], np.ndarray] | None = None
    fault: str = ""


class Part(NamedTuple):
    """Weights found in a checkpoint.

    Attributes:
      label: where, as in "ema/shadow"; "" for the top.
      is_averaged: whether its name says that they are averages.
      tensors: by name; a list where the names are not stored; text that says why it is neither.
    """

    label: str
    is_averaged: bool
    tensors: dict[str, Stored] | list[Stored] | str


def find_parts(node: Any, label: str = "", is_averaged: bool = False) -> Iterator[Part]:
    """Every part of a checkpoint: what is nested under a known name, else its own tensors.

    Args:
      node: nested dicts and lists with `Stored` tensors, as read from a file.
      label: where in the file `node` lies.
      is_averaged: whether it lies under the name of an average.

    Raises:
      ValueError: two tensors have one name once the wrappers are left out.
    """
    if isinstance(node, list) and node and is_averaged:
        if all(isinstance(item, Stored) for item in node):
            yield Part(label, True, node)
        return
    if not isinstance(node, dict) or label.count("/") > _DEPTH:
        return
    found = False
    for key, value in node.items():
        for part in _find_under(key, value, f"{label}/{key}".lstrip("/"), is_averaged):
            found = True
            yield part
    tensors = {
        key: value
        for key, value in node.items()
        if isinstance(key, str) and isinstance(value, Stored)
    }
    if not found and tensors:
        yield from _split(tensors, label, is_averaged)


def _find_under(key: Any, value: Any, label: str, is_averaged: bool) -> Iterator[Part]:
    if not isinstance(key, str) or isinstance(value, Stored):
        return
    if key in _CONTAINERS and isinstance(value, dict):
        for name, item in value.items():
            inner = _find_under(name, item, f"{label}/{name}", is_averaged)
            yield from (part for part in inner if part.is_averaged)
    elif names_average(key):
        parts = list(find_parts(value, label, True))
        if not parts and _holds_tensors(value, set()):
            what = f"an object of {value.name}" if isinstance(value, Inert) else "of unknown layout"
            parts = [Part(label, True, f"they are {what}")]
        yield from parts
    elif key in MODEL_KEYS:
        yield from find_parts(value, label, is_averaged)


def names_average(key: str) -> bool:
    """Whether a name in a checkpoint is of averaged weights."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)}
    return bool(words & _AVERAGED) and not words & _OTHERS


def _holds_tensors(value: Any, seen: set[int]) -> bool:
    """Whether tensors lie in nested dicts, lists and objects; `seen` are the ids of those."""
    if isinstance(value, Stored) or (isinstance(value, Inert) and value.is_tensor):
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    inner: Any = ()
    if isinstance(value, Inert):
        inner = (*value.args, value.state, *value.items.values())
    elif isinstance(value, dict | list | tuple):
        inner = value.values() if isinstance(value, dict) else value
    return any(_holds_tensors(item, seen) for item in inner)


def _split(tensors: dict[str, Stored], label: str, is_averaged: bool) -> Iterator[Part]:
    """Parts of one flat state dict: an average may be a module in it, so a prefix of names."""
    state = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    if len(state) != len(tensors):
        raise ValueError(f"two tensors have one name once {_WRAPPERS} are left out")
    first = {name.partition(".")[0] for name in state if "." in name}
    averages = sorted(filter(names_average, first))
    for prefix in averages:
        inner = _under(state, f"{prefix}.")
        yield Part(f"{label}/{prefix}".lstrip("/"), True, _without_counters(inner))
    rest = {name: state[name] for name in state if name.partition(".")[0] not in averages}
    rest = _without_counters(rest)
    if averages and all(name.startswith(_ONLINE) for name in rest):
        rest, label = _under(rest, _ONLINE), f"{label}/{_ONLINE[:-1]}".lstrip("/")
    if rest and not (averages and is_averaged):
        yield Part(label, is_averaged, rest)


def _under(state: dict[str, Stored], prefix: str) -> dict[str, Stored]:
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_counters(state: dict[str, Stored]) -> dict[str, Stored]:
    def is_counter(name: str) -> bool:
        return state[name].shape in ((), (1,)) and bool(_COUNTERS.fullmatch(name))

    return {name: tensor for name, tensor in state.items() if not is_counter(name)}
