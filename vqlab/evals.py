"""From `config.evals` to evaluators, each compared with the data before anything compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import ml_collections
from jax.sharding import Mesh

from vqlab import data
from vqlab.evaluation.evaluators import EVALUATORS, Evaluator, log_left_out
from vqlab.evaluation.ladders import Ladder, ladder_of
from vqlab.evaluation.needs import Supply
from vqlab.methods import check_image_size
from vqlab.training import sharding

# What an evaluator's node says about its images; the rest are the evaluator's own arguments.
_DATA = ("name", "image_size", "tile_size", "batch_size", "limit")


def build_evaluators(
    config: ml_collections.ConfigDict,
    model,
    mesh: Mesh,
    read_source: Callable[[str], data.Source],
    before_batch: Callable[[], None] = lambda: None,
    on_worker_death: Callable[[str], None] = lambda reason: None,
) -> dict[str, Evaluator]:
    """The evaluators `config.evals`, but for those that the data do not allow: a line for each.

    Args:
      config: of the run.
      model: what is evaluated, unbound.
      mesh: where the batches lie.
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
        evaluator = _build_evaluator(config, name, model, mesh, batches, before_batch)
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
    model,
    mesh: Mesh,
    evaluated: Callable[[str], _Evaluated],
    before_batch: Callable[[], None],
) -> Evaluator:
    """The evaluator `config.evals.<name>` on the splits that `evaluated` gives."""
    node = config.evals[name]
    if node.name not in EVALUATORS:
        raise ValueError(f"unknown evaluator {node.name!r}; known: {', '.join(EVALUATORS)}")
    check_image_size(model, node.image_size, f"evals.{name}.image_size")
    parts = sharding.batch_parts(mesh)
    if node.batch_size % parts:
        raise ValueError(
            f"evals.{name}.batch_size={node.batch_size} does not divide over {parts} devices"
        )

    def make_batches(split: str):
        for batch in evaluated(split).batches:
            before_batch()
            yield sharding.global_batch(batch, mesh)

    arguments = {key: value for key, value in node.items() if key not in _DATA}
    if node.name == "reconstruction":
        arguments["lpips"] = bool(config.objective.lpips_weights)
    evaluator = EVALUATORS[node.name](build_ladder(config, model), make_batches, **arguments)
    evaluator.needs.check_side(node.image_size, f"evals.{name}.image_size")
    return evaluator


def build_ladder(config: ml_collections.ConfigDict, model) -> Ladder:
    """The model as reconstructions from growing prefixes, sampled as `config.sampling` says."""
    sampling = dict(config.sampling) if "sampling" in config else {}
    return ladder_of(model, **sampling)


def _eval_batches(
    config: ml_collections.ConfigDict,
    name: str,
    read_source: Callable[[str], data.Source],
    mesh: Mesh,
    on_worker_death: Callable[[str], None],
    split: str,
) -> _Evaluated:
    node = config.evals[name]
    part, num_parts = sharding.own_part(mesh)
    names = {"train": config.data.train_split, "validation": config.data.validation_split}
    source = read_source(names[split])
    if node.tile_size:
        source = data.TileSource(source, node.tile_size)
    batches = data.eval_batches(
        source,
        data.CenterCrop(node.image_size),
        node.batch_size,
        process_index=part,
        process_count=num_parts,
        limit=node.limit or None,
        on_worker_death=on_worker_death,
        **config.loader,
    )
    num_images = min(node.limit or len(source), len(source))
    return _Evaluated(batches, Supply(num_images, source.num_classes))
