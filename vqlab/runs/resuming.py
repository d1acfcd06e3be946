"""A config that resumes a run of another one: what differs is named, or refused."""

from __future__ import annotations

import copy
import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from vqlab.runs.workdir import load_config
from vqlab.training.checkpoint import saved_steps

log = logging.getLogger("vqlab")

UNSET = "not set"
# Settings that shape the arrays of a checkpoint.
_SHAPING = ("model", "discriminator", "objective", "optimizer", "ema_decay")
# On which the order of the data hangs.
_FIXED = ("seed",)
# What building from a config of another version may raise, which lacks settings or has others.
_UNKNOWN = (ValueError, TypeError, KeyError, AttributeError)

Config = ml_collections.ConfigDict
Shapes = Mapping[str, tuple]


class Change(NamedTuple):
    """A setting that differs; `UNSET` where one of the configs lacks it."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name} was {_text(self.old)}, is {_text(self.new)}"


def changes(old: Mapping, new: Mapping, prefix: str = "") -> list[Change]:
    """All settings that differ between two configs in JSON types, by name."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, UNSET), new.get(key, UNSET)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(Change(prefix + key, before, after))
    return found


def compare(
    workdir: pathlib.Path, config: Config, shapes_of: Callable[[Config], Shapes]
) -> list[Change]:
    """What `config` changes of the run in `workdir`; [] without a checkpoint to resume.

    Args:
      workdir: of the run; only its config is read.
      config: the one to go on with.
      shapes_of: what the train state of a config holds, to compare.

    Raises:
      ValueError: naming the settings with which the checkpoints cannot be resumed.
    """
    if not saved_steps(workdir):
        return []
    try:
        old = json.loads(load_config(workdir).to_json())
    except ValueError as error:
        if jax.process_index() == 0:
            log.warning("which settings differ is not known: %s", error)
        return []
    found = changes(old, json.loads(config.to_json()))
    if refused := _unfit(old, found, config, shapes_of):
        raise ValueError(
            f"the checkpoints in {workdir} cannot go on with other settings: "
            f"{'; '.join(map(str, refused))}: set them back, or name another --workdir"
        )
    return found


def _unfit(
    old: dict, found: list[Change], config: Config, shapes_of: Callable[[Config], Shapes]
) -> list[Change]:
    """Those of the changes that the checkpoints of `old` do not fit."""
    fixed = [change for change in found if change.name in _FIXED]
    shaping = [change for change in found if change.name.split(".")[0] in _SHAPING]
    if not shaping:
        return fixed
    try:
        shapes = shapes_of(Config(old))
    except _UNKNOWN:
        return fixed  # Orbax will say whether the checkpoints fit
    if shapes == shapes_of(config):
        return fixed

    def fits(change: Change) -> bool:
        try:
            return shapes_of(Config(_changed(old, change))) == shapes
        except _UNKNOWN:  # not without another of the changes
            return False

    alone = [change for change in shaping if not fits(change)]
    return fixed + (alone or shaping)


def _changed(tree: dict, change: Change) -> dict:
    """A copy of the settings with one of them changed."""
    tree = copy.deepcopy(tree)
    *path, name = change.name.split(".")
    node = tree
    for key in path:
        node = node[key]
    if change.new == UNSET:
        del node[name]
    else:
        node[name] = change.new
    return tree


def _text(value: Any, limit: int = 100) -> str:
    """On one line, and short."""
    text = value if value == UNSET else json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
