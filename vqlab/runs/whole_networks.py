"""Frozen networks that a config names by their folder alone: their nodes come from there."""

from __future__ import annotations

from typing import Any

import ml_collections

from vqlab import models
from vqlab.export import hub, package
from vqlab.export.frozen import NETWORKS
from vqlab.models.dtypes import FLOAT32, with_dtype
from vqlab.models.generator import in_use
from vqlab.runs.parts import frozen_files
from vqlab.runs.workdir import load_config


def place_nodes(config: ml_collections.ConfigDict) -> None:
    """Puts the node of each whole network that a setting names into `config.model`, in its place.

    As `vqlab.load` reads it, so that its codes are those of `vqlab.tokenize`. The config then says
    all by itself, whatever becomes of the folder.

    Raises:
      ValueError: no network there, or a generator.
    """
    for name, path in frozen_files(config).items():
        if not path or not NETWORKS[name].is_whole:
            continue
        node = read_node(path)
        if (noun := in_use(models.build(node)).card().noun) != name:
            raise ValueError(f"{path} holds a {noun}: {NETWORKS[name].setting} takes a {name}")
        with config.unlocked():
            place = config.model
            *outer, last = NETWORKS[name].path
            for step in outer:
                place = place[step]
            place[last] = ml_collections.ConfigDict(node)


def read_node(path: str) -> dict[str, Any]:
    """The model node in a workdir, an exported folder or one on the Hub; no weights are read."""
    folder = hub.resolve(path)
    if package.is_package(folder):
        return package.read_config(folder)["model"]
    return with_dtype(load_config(folder).model.to_dict(), FLOAT32)
