"""A run's folder: the resolved config, the checkpoints, and the tokenizer in them."""

from __future__ import annotations

import json
import pathlib

import ml_collections

from vqlab import models
from vqlab.export import package
from vqlab.methods import read_latent_space
from vqlab.training.checkpoint import Checkpointer
from vqlab.training.disk import write_text
from vqlab.training.objectives import TOKENIZER

CONFIG_FILE = "config.json"


def save_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the resolved config, so that a workdir explains itself."""
    text = json.dumps(json.loads(config.to_json()), indent=2) + "\n"
    write_text(workdir / CONFIG_FILE, text)


def load_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The resolved config of a workdir.

    Raises:
      ValueError: when there is none, it is cut short, or the folder is an exported one.
    """
    if package.is_package(workdir):
        raise ValueError(
            f"{workdir} is an exported folder, not a workdir: give it as --source, with --config"
        )
    path = pathlib.Path(workdir).expanduser() / CONFIG_FILE
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

    Only what was trained: of a run the averaged weights where it has them.

    Raises:
      ValueError: no tokenizer there, no such checkpoint, or one that is truncated.
    """
    path = pathlib.Path(path).expanduser()
    if package.is_package(path):
        node, params, variables = package.load_package(path)
        variables.pop("latent_space", None)
        return node, params, variables
    config = load_config(path)
    checkpointer = open_checkpoints(config, path)
    try:
        weights = checkpointer.restore_weights(("params", "variables", "ema"), step)
    finally:
        checkpointer.close()
    params = weights["ema"].get(TOKENIZER, weights["params"][TOKENIZER])
    return config.model.to_dict(), params, weights["variables"][TOKENIZER]


def load_latent_space(path: str | pathlib.Path) -> dict:
    """{"latent_space": the frozen autoencoder's variables} of a run; {} where it has none."""
    config = load_config(path)
    if "latent_space" not in config.model:
        return {}
    frozen = read_latent_space(config, models.build(config.model.latent_space))
    return {"latent_space": frozen} if frozen else {}


def load_sampling(path: str | pathlib.Path) -> dict:
    """How a run's evaluators decode; {} for a method that does not sample."""
    config = load_config(path)
    return config.sampling.to_dict() if "sampling" in config else {}
