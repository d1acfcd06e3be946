"""A run's folder: the resolved config, the checkpoints, and the tokenizer in them."""

from __future__ import annotations

import json
import pathlib

import ml_collections

from vqlab.export import package
from vqlab.training.checkpoint import Checkpointer
from vqlab.training.objectives import TOKENIZER

CONFIG_FILE = "config.json"


def save_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved config, so that a workdir explains itself."""
    text = json.dumps(json.loads(config.to_json()), indent=2) + "\n"
    (workdir / CONFIG_FILE).write_text(text)


def load_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      ValueError: when there is none, or it is cut short.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(f"{workdir} is no workdir: {path} {error.strerror.lower()}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error


def open_checkpoints(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Checkpointer:
    """The checkpoints of a workdir."""
    return Checkpointer(workdir, **config.checkpoint)


def load_tokenizer(path: str | pathlib.Path, step: int | str = "latest"):
    """(model node, params, variables) of an exported folder or of a run's checkpoint.

    Of a run it takes the averaged weights where it has them.

    Raises:
      ValueError: no tokenizer there, no such checkpoint, or one that is truncated.
    """
    if package.is_package(path):
        return package.load_package(path)
    config = load_config(path)
    checkpointer = open_checkpoints(config, pathlib.Path(path))
    try:
        weights = checkpointer.restore_weights(("params", "variables", "ema"), step)
    finally:
        checkpointer.close()
    params = weights["ema"].get(TOKENIZER, weights["params"][TOKENIZER])
    return config.model.to_dict(), params, weights["variables"][TOKENIZER]
