"""A run's folder: the resolved config, the checkpoints, and the tokenizer in them."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from flax import traverse_util

from vqlab import models
from vqlab.export import hub, package
from vqlab.export.files import read_arrays, save_arrays
from vqlab.export.frozen import read_networks
from vqlab.export.package import check_variables
from vqlab.export.strict import check_finite
from vqlab.models.codec import Weights
from vqlab.runs.parts import build_objective, frozen_files
from vqlab.training.checkpoint import Checkpointer, saved_steps
from vqlab.training.disk import naming, write_text

CONFIG_FILE, FROZEN_FOLDER, FINGERPRINTS_FILE = "config.json", "frozen", "fingerprints.json"


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


def read_trained(
    path: str | pathlib.Path, step: int | str = "latest"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model node, variables) of an exported folder or of a run's checkpoint, as NumPy arrays.

    Only what was trained: of a run the averaged weights where it has them. The folder may be one
    on the Hugging Face Hub.

    Raises:
      ValueError: no network there, no such checkpoint, or one that is truncated.
    """
    path = hub.resolve(path)
    if package.is_package(path):
        node, weights, _ = package.load_package(path)
        return node, dict(weights.variables)
    config = load_config(path)
    checkpointer = open_checkpoints(config, path)
    try:
        stored = checkpointer.restore_weights(("params", "variables", "ema"), step)
    finally:
        checkpointer.close()
    player = build_objective(config).players[0]
    params = stored["ema"].get(player, stored["params"][player])
    return config.model.to_dict(), {"params": params, **stored["variables"][player]}


def read_run(path: str | pathlib.Path, step: int | str = "latest") -> package.Package:
    """What a run's folder holds for use: trained and frozen weights, and how it samples.

    Raises:
      ValueError: as `read_trained`, or a frozen network that decoding takes cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    config = load_config(path)
    node, variables = read_trained(path, step)
    weights = Weights(variables, read_frozen(path, config))
    check_finite(package.flatten(weights), str(path))
    return package.Package(node, weights, config.sampling.to_dict() if "sampling" in config else {})


def check_frozen(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, frozen: Mapping[str, Any]
) -> None:
    """Raises ValueError where the run's checkpoints were made with another frozen network."""
    if not saved_steps(workdir):
        return
    wanted, model = _fingerprints(workdir), config.model.to_dict()
    for name, made in package.fingerprints(model, frozen).items():
        if wanted.get(name, made) != made:
            raise ValueError(
                f"the checkpoints in {workdir} are of another {name.replace('_', ' ')}: "
                f"fingerprint {wanted[name]}, config's is {made}: set it back, or name another "
                "--workdir"
            )


def keep_beginning(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, frozen: Mapping[str, Any]
) -> None:
    """Writes, on process 0, the config and, once, what decoding takes: the folder is whole then."""
    if jax.process_index() != 0:
        return
    save_config(config, workdir)
    marks = package.fingerprints(config.model.to_dict(), frozen)
    is_kept = _fingerprints(workdir) == marks
    for name, variables in frozen.items():
        path = _frozen_file(workdir, name)
        if not path.exists() or not is_kept:
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(".part")
            with naming(path):
                save_arrays(part, traverse_util.flatten_dict(variables, sep="/"))
                os.replace(part, path)
    if frozen and not is_kept:
        write_text(workdir / FROZEN_FOLDER / FINGERPRINTS_FILE, json.dumps(marks, indent=2) + "\n")


def read_frozen(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{name: variables} of the frozen networks that decoding takes.

    Those that `keep_beginning` kept; of an earlier run, of the files that its config names.
    """
    frozen = {}
    for name, module in models.build(config.model).frozen_parts().items():
        path = _frozen_file(workdir, name)
        if path.exists():
            variables = read_arrays(path)
            check_variables(module, variables, str(path))
        else:
            files = frozen_files(config)
            variables = read_networks(files, {name: module}, needed=[name])[name]
        frozen[name] = variables
    package.check_fingerprints(_fingerprints(workdir), config.model.to_dict(), frozen, str(workdir))
    return frozen


def _fingerprints(workdir: pathlib.Path) -> dict[str, str]:
    """Of the frozen parts that the run was trained with; {} of a run from before they were kept."""
    path = workdir / FROZEN_FOLDER / FINGERPRINTS_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error


def _frozen_file(workdir: pathlib.Path, name: str) -> pathlib.Path:
    return workdir / FROZEN_FOLDER / f"{name}.safetensors"
