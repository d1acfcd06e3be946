"""From a config to its parts: each function builds one, and checks the settings that it reads.

A ValueError from here is a wrong setting, in one line, before anything compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vqlab import data, inference, models
from vqlab.export import frozen as frozen_networks
from vqlab.models.codec import Sampling
from vqlab.models.generator import in_use
from vqlab.registry import accepted, check_arguments, choose
from vqlab.training import sharding
from vqlab.training.objectives import OBJECTIVES
from vqlab.training.optim import build_optimizer, build_schedule, current_rate
from vqlab.training.step import Objective

Config = ml_collections.ConfigDict


def build_mesh(config: Config, devices=None) -> Mesh:
    """The mesh of the config over all or the given devices; checks that batches divide over it."""
    if config.accumulate < 1:
        raise ValueError(f"accumulate={config.accumulate} must be at least 1")
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    parts = sharding.batch_parts(mesh)
    if config.batch_size % (parts * config.accumulate):
        raise ValueError(
            f"batch_size={config.batch_size} does not divide over {parts} devices "
            f"x accumulate={config.accumulate}"
        )
    return mesh


def build_objective(config: Config) -> Objective:
    """The network of the config and what it is trained for.

    A config without `objective.name` is trained for what its network names.
    """
    network = models.build(config.model)
    network.check_image_size(config.image_size, "image_size")
    given = config.objective.to_dict()
    name = given.pop("name", network.objective)
    objective = choose("objective", name, OBJECTIVES)
    files = {setting.rpartition(".")[2] for setting in frozen_networks.SETTINGS}
    settings = {key: value for key, value in given.items() if key not in files}
    check_arguments(name, set(settings), known=objective.settings(), required=())
    return objective.create(network, lambda part: models.build(config[part]), **settings)


def build_optimizers(config: Config, players: Iterable[str]) -> dict:
    """One optimizer for each player."""
    return {
        player: build_optimizer(num_steps=config.num_steps, **config.optimizer[player])
        for player in players
    }


def build_learning_rates(config: Config, players: Iterable[str]) -> dict[str, Callable]:
    """A function for each player, from the state of its optimizer to its learning rate."""

    def rate(node: Config) -> Callable:
        schedule = build_schedule(
            node.schedule,
            node.learning_rate,
            warmup_steps=node.warmup_steps,
            num_steps=config.num_steps,
        )
        return functools.partial(current_rate, schedule)

    return {player: rate(config.optimizer[player]) for player in players}


def build_sampling(config: Config) -> Sampling | None:
    """How the network decodes by default; None for one that does not sample."""
    return Sampling.of(**config.sampling) if "sampling" in config else None


def build_subject(config: Config, objective: Objective) -> Any:
    """What is evaluated and exported: the network in use, a codec or a generator."""
    settings = config.sampling.to_dict() if "sampling" in config else {}
    return in_use(objective.network, settings)


def build_source(node: Config, split: str, arrays: Collection[str] = ()) -> data.Source:
    """The images of a split, by its name in the data set; `node` is config.data.

    The node serves all sources; each takes its own arguments of it. Where records hold one of
    `arrays` it stands for the images, which are not read.
    """
    source = choose("data source", node.name, data.SOURCES)
    # Workdirs from before this setting lack it, or parts of it: what is missing is its default.
    decoding = data.Decoding(**(node.decoding if "decoding" in node else {}))
    settings = node.to_dict() | {"decoding": decoding, "split": split}
    return data.build_source(node.name, arrays=arrays, **accepted(source, settings))


def evaluated_source(
    config: Config,
    model: Mapping[str, Any],
    frozen: Mapping[str, Any],
    split: str,
    arrays: Iterable[tuple[str, str]] = (),
) -> data.Source:
    """The images of a split for evaluators, or records of arrays that stand for them.

    Args:
      config: of a run.
      model: the node of the network that is evaluated.
      frozen: variables of its frozen networks.
      split: its name in the data set.
      arrays: what may stand for the images, with the frozen network that must have made it.

    Raises:
      ValueError: there are no images, or the arrays are of another network or image size.
    """
    source = build_source(config.data, split, [name for name, _ in arrays])
    marks = {
        name: frozen_networks.network_fingerprint(network, model, frozen[network])[0]
        for name, network in arrays
        if name in source.fields
    }
    if marks:
        where, side = config.data.path, config.image_size
        data.check_records(source.manifest, where, image_size=side, fingerprints=marks)
    return source


def in_place_of_images(objective: Objective) -> list[str]:
    """Arrays of records beside which the objective needs no images."""
    return [name for name, stored in objective.stored.items() if stored.replaces == "images"]


def build_batches(
    config: Config,
    source: data.Source,
    mesh: Mesh,
    *,
    on_worker_death: Callable[[], None] | None = None,
) -> data.TrainBatches:
    """This process's part of the endless training batches."""
    parts, num_parts = sharding.own_parts(mesh)
    if source.is_cropped:
        transform = data.StoredCrop(config.image_size)
    else:
        transform = data.TrainTransform(config.image_size, **config.augment)
    return data.train_batches(
        source,
        transform,
        config.batch_size,
        seed=config.seed,
        parts=parts,
        num_parts=num_parts,
        on_worker_death=on_worker_death,
        **config.loader,
    )


def frozen_files(config: Config) -> dict[str, str]:
    """{frozen network: its file or files}, "" where none is given."""
    return {
        name: _setting(config, network.setting)
        for name, network in frozen_networks.NETWORKS.items()
    }


def _setting(config: Config, name: str) -> str:
    node: Any = config
    for part in name.split("."):
        if part not in node:
            return ""
        node = node[part]
    return node


def build_frozen(config: Config, objective: Objective, uses: Iterable[str] = ()) -> dict[str, Any]:
    """Variables of the frozen networks: those that the objective needs, and of `uses` those given.

    Raises:
      ValueError: one that is needed has no file, or a file does not fit.
    """
    parts = objective.network.frozen_parts()
    return frozen_networks.read_networks(
        frozen_files(config),
        parts,
        needed=[*parts, *objective.needs],
        used=uses,
        read_whole=inference.read,
    )


def stored_fingerprints(
    config: Config, objective: Objective, frozen: dict[str, Any]
) -> dict[str, tuple[str, str]]:
    """(fingerprint, network in words) of each array that the objective's frozen networks make."""
    model = config.model.to_dict()
    return {
        name: frozen_networks.network_fingerprint(stored.network, model, frozen[stored.network])
        for name, stored in objective.stored.items()
        if stored.network in frozen
    }


def check_source(
    config: Config, source: data.Source, objective: Objective, frozen: dict[str, Any]
) -> None:
    """Checks that images are labelled as the network takes them, and what is stored beside them
    was made by this run's frozen networks.

    Raises:
      ValueError: there are no labels, or of other classes; the records are of another network or
        image size, or nothing takes them.
    """
    _check_labels(source, objective)
    if not source.fields:
        return
    made = stored_fingerprints(config, objective, frozen)
    marks = {name: mark for name, (mark, _) in made.items() if name in source.fields}
    path, manifest = config.data.path, source.manifest
    if manifest.what == "latents" and not marks:
        raise ValueError(f"records in {path} hold latents, but config.model reads images only")
    data.check_records(manifest, path, image_size=config.image_size, fingerprints=marks)


def _check_labels(source: data.Source, objective: Objective) -> None:
    if "labels" not in objective.inputs:
        return
    wanted, found = objective.network.num_classes, source.num_classes
    if wanted and not found:
        raise ValueError(
            f"the training images have no labels, but model.num_classes={wanted}: give labelled "
            "ones, or set --config.model.num_classes=0"
        )
    if wanted and found != wanted:
        raise ValueError(
            f"the training images are of {found} classes, not model.num_classes={wanted}: set "
            f"--config.model.num_classes={found}"
        )


def batch_shapes(
    config: Config,
    objective: Objective,
    fields: Mapping[str, tuple[str, tuple[int, ...]]],
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch on the devices, in the dtypes that it is stored in.

    Args:
      config: of a run.
      objective: of the config.
      fields: dtype and shape, by name, of the arrays that records bring; {} for none.
    """
    side, count = config.image_size, config.batch_size
    batch = {}
    if set(in_place_of_images(objective)).isdisjoint(fields):
        batch["images"] = jax.ShapeDtypeStruct((count, side, side, 3), np.uint8)
    if "labels" in objective.inputs:
        batch["labels"] = jax.ShapeDtypeStruct((count,), np.int32)
    stored = {name: fields[name] for name in objective.stored if name in fields}
    return batch | {
        name: jax.ShapeDtypeStruct((count, *shape), np.dtype(dtype))
        for name, (dtype, shape) in stored.items()
    }


def stored_fields(
    config: Config, objective: Objective, frozen: Mapping[str, Any], dtype: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of all that records may bring for this objective.

    Args:
      config: of a run.
      objective: of the config.
      frozen: variables of its frozen networks, or their shapes.
      dtype: that arrays are stored in where the objective does not say.
    """
    side = config.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    made = jax.eval_shape(objective.prepare, frozen, {"images": images})
    return {
        name: (array.dtype or dtype, made[name].shape[1:])
        for name, array in objective.stored.items()
    }
