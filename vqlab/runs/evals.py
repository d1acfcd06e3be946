"""From `config.evals` to evaluators, each compared with the data before anything compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from vqlab import data
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import EVALUATORS, log_left_out
from vqlab.evaluation.needs import Supply
from vqlab.models.codec import Codec
from vqlab.ops.pixels import as_floats
from vqlab.registry import build, choose
from vqlab.training import sharding

# Images travel as they are stored, and become floats where they are.
_floats = jax.jit(as_floats)
# What an evaluator's node says about its images; the rest are the evaluator's own arguments.
_DATA = ("name", "image_size", "tile_size", "batch_size", "limit")


def used_networks(config: ml_collections.ConfigDict) -> set[str]:
    """The frozen networks that the evaluators of the config take where they are given."""
    kinds = [choose("evaluator", node.name, EVALUATORS) for node in config.evals.values()]
    return {name for kind in kinds for name in kind.uses}


def build_evaluators(
    config: ml_collections.ConfigDict,
    codec: Codec,
    mesh: Mesh,
    networks: Collection[str],
    read_source: Callable[[str], data.Source],
    before_batch: Callable[[], None] = lambda: None,
    on_worker_death: Callable[[str], None] = lambda reason: None,
) -> dict[str, Evaluator]:
    """The evaluators `config.evals`, but for those that the data do not allow: a line for each.

    Args:
      config: of the run.
      codec: what is evaluated.
      mesh: where the batches lie.
      networks: names of the frozen networks that are given.
      read_source: the images of a split by its name in config.data.
      before_batch: called before each batch; may raise.
      on_worker_death: see `data.eval_batches`; the evaluation goes on without workers.

    Raises:
      ValueError: for a setting that cannot work, or data that are missing.
    """
    read_source = functools.cache(read_source)
    evaluators = {}
    for name in config.evals:
        batches = functools.cache(
            functools.partial(_eval_batches, config, name, read_source, mesh, on_worker_death)
        )
        evaluator = _build_evaluator(config, name, codec, mesh, networks, batches, before_batch)
        supplies = {split: batches(split).supply for split in evaluator.needs.num_images}
        if lack := evaluator.needs.missing(supplies):
            log_left_out(name, lack)
        else:
            evaluators[name] = evaluator
    return evaluators


class _Evaluated(NamedTuple):
    """The batches of a split that an evaluator reads, and what they hold."""

    batches: data.EvalBatches
    supply: Supply


def _build_evaluator(
    config: ml_collections.ConfigDict,
    name: str,
    codec: Codec,
    mesh: Mesh,
    networks: Collection[str],
    evaluated: Callable[[str], _Evaluated],
    before_batch: Callable[[], None],
) -> Evaluator:
    """The evaluator `config.evals.<name>` on the splits that `evaluated` gives."""
    node = config.evals[name]
    codec.check_image_size(node.image_size, f"evals.{name}.image_size")
    parts = sharding.batch_parts(mesh)
    if node.batch_size % parts:
        raise ValueError(
            f"evals.{name}.batch_size={node.batch_size} does not divide over {parts} devices"
        )

    def make_batches(split: str):
        for batch in evaluated(split).batches:
            before_batch()
            batch = sharding.global_batch(batch, mesh)
            yield batch | {"images": _floats(batch["images"])}

    arguments = {key: value for key, value in node.items() if key not in _DATA}
    if uses := choose("evaluator", node.name, EVALUATORS).uses:
        arguments["networks"] = set(uses) & set(networks)
    arguments["name"] = node.name
    evaluator = build("evaluator", arguments, EVALUATORS, codec, make_batches)
    evaluator.needs.check_side(node.image_size, f"evals.{name}.image_size")
    return evaluator


def _eval_batches(
    config: ml_collections.ConfigDict,
    name: str,
    read_source: Callable[[str], data.Source],
    mesh: Mesh,
    on_worker_death: Callable[[str], None],
    split: str,
) -> _Evaluated:
    node = config.evals[name]
    parts, num_parts = sharding.own_parts(mesh)
    names = {"train": config.data.train_split, "validation": config.data.validation_split}
    source = read_source(names[split])
    if node.tile_size:
        source = data.TileSource(source, node.tile_size)
    batches = data.eval_batches(
        source,
        data.CenterCrop(node.image_size),
        node.batch_size,
        parts=parts,
        num_parts=num_parts,
        limit=node.limit or None,
        on_worker_death=on_worker_death,
        **config.loader,
    )
    num_images = min(node.limit or len(source), len(source))
    return _Evaluated(batches, Supply(num_images, source.num_classes))
