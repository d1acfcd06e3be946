"""From `config.evals` to evaluators, each compared with the data before anything compiles."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from vqlab import data
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import BY_PROTOCOL, EVALUATORS, log_left_out
from vqlab.evaluation.needs import Supply
from vqlab.evaluation.statistics_file import ReferenceCache
from vqlab.export.frozen import network_fingerprint
from vqlab.models.codec import Codec
from vqlab.models.generator import Generator
from vqlab.models.pieces import Pieces
from vqlab.ops.pixels import as_floats
from vqlab.registry import accepted, build, choose
from vqlab.training import sharding

# Images travel as they are stored, and become floats where they are.
_floats = jax.jit(as_floats)
# What an evaluator's node says about its images; the rest are the evaluator's own arguments.
_DATA = ("name", "image_size", "tile_size", "batch_size", "limit", "piece_size")
REFERENCES = "references"  # the folder of a workdir that keeps statistics of originals


def used_networks(config: ml_collections.ConfigDict) -> set[str]:
    """The frozen networks that the evaluators of the config take where they are given."""
    kinds = [choose("evaluator", node.name, EVALUATORS) for node in config.evals.values()]
    return {name for kind in kinds for name in kind.uses}


def evaluated(codec: Codec, node: ml_collections.ConfigDict, name: str) -> Codec:
    """What the evaluator `config.evals.<name>` of this node sees of a network.

    With `piece_size`, images of `image_size` are cut into pieces of that size, each coded alone: so
    a network of small images is measured on the larger ones that others take whole.

    Raises:
      ValueError: the network cannot take images of these sizes.
    """
    if "piece_size" in node:
        codec = Pieces(codec, node.piece_size, f"evals.{name}.piece_size")
    codec.check_image_size(node.image_size, f"evals.{name}.image_size")
    return codec


def protocol_node(
    config: ml_collections.ConfigDict, protocols: str, noun: str = "tokenizer", **settings: Any
) -> ml_collections.ConfigDict:
    """The config with one evaluator in the place of its own, that of protocols for a `noun`.

    Settings of 0 or "" are those of the first evaluator of the config.
    """
    first, name = next(iter(config.evals.values()), {}), BY_PROTOCOL[noun]
    node = {"name": name, "tile_size": 0, "limit": 0, "image_size": config.image_size}
    node |= {"batch_size": config.batch_size}
    node |= {key: first[key] for key in _DATA[1:] if key in first}
    node |= {key: value for key, value in settings.items() if value}
    config = config.copy_and_resolve_references().unlock()
    config.evals = {name: {**node, "protocols": protocols}}
    return config.lock()


def build_evaluators(
    config: ml_collections.ConfigDict,
    codec: Codec | Generator,
    mesh: Mesh,
    networks: Mapping[str, Any],
    read_source: Callable[..., data.Source],
    before_batch: Callable[[], None] = lambda: None,
    on_worker_death: Callable[[str], None] = lambda reason: None,
    workdir: pathlib.Path | None = None,
    show: Callable[[str, Iterable, int], Iterable] = lambda name, batches, count: batches,
) -> dict[str, Evaluator]:
    """The evaluators `config.evals`, but for those that the data do not allow: a line for each.

    Args:
      config: of the run.
      codec: what is evaluated.
      mesh: where the batches lie.
      networks: variables of the frozen networks that are given, by name.
      read_source: the images of a split by its name in config.data, or records of arrays in their
        place, see `parts.evaluated_source`.
      before_batch: called before each batch; may raise.
      on_worker_death: see `data.eval_batches`; the evaluation goes on without workers.
      workdir: keeps statistics of references; None for none.
      show: what is passed through, (name of the evaluator, batches, number of images), to show how
        far it is.

    Raises:
      ValueError: for a setting that cannot work, or data that are missing.
    """
    read_source = functools.cache(read_source)
    evaluators = {}
    for name in config.evals:
        arrays = _in_place_of_images(config, name, codec)
        batches = functools.cache(
            functools.partial(
                _eval_batches, config, name, read_source, arrays, mesh, on_worker_death
            )
        )

        def watch(made: Iterable[Mapping], count: int, name=name) -> Iterator[Mapping]:
            for batch in show(name, made, count):
                before_batch()
                yield batch

        def shown(split: str, crop: str, watch=watch, batches=batches) -> Iterator[dict]:
            found = batches(split, crop)
            yield from watch(found.batches, found.supply.num_images)

        cache = functools.partial(_cache, config, name, networks, read_source, workdir)
        hooks = {"cache": cache, "watch": lambda watch=watch: watch}
        evaluator = _build_evaluator(config, name, codec, mesh, networks, shown, hooks)
        supplies = {split: batches(split, "adm").supply for split in evaluator.needs.num_images}
        if lack := evaluator.needs.missing(supplies):
            log_left_out(name, lack)
        else:
            evaluators[name] = evaluator
    return evaluators


def _in_place_of_images(config, name: str, codec: Codec | Generator) -> tuple[tuple[str, str], ...]:
    """What the evaluator takes in the place of images; tiles are of images alone."""
    node = config.evals[name]
    kind = choose("evaluator", node.name, EVALUATORS)
    is_meant = kind.of == codec.card().noun  # else it is refused
    return kind.in_place_of_images(codec) if is_meant and not node.tile_size else ()


class _Evaluated(NamedTuple):
    """The batches of a split that an evaluator reads, and what they hold."""

    batches: data.EvalBatches
    supply: Supply


def _build_evaluator(
    config: ml_collections.ConfigDict,
    name: str,
    codec: Codec | Generator,
    mesh: Mesh,
    networks: Mapping[str, Any],
    host_batches: Callable[[str, str], Iterator[dict]],
    hooks: Mapping[str, Callable[[], Any]],
) -> Evaluator:
    """The evaluator `config.evals.<name>` on the splits and crops that `host_batches` gives.

    `hooks` make arguments by name, for evaluators that have them.
    """
    node = config.evals[name]
    kind = choose("evaluator", node.name, EVALUATORS)
    if kind.of != (noun := codec.card().noun):
        raise ValueError(f"evals.{name} measures a {kind.of} by {node.name}; this is a {noun}")
    codec = evaluated(codec, node, name)
    parts = sharding.batch_parts(mesh)
    if node.batch_size % parts:
        raise ValueError(
            f"evals.{name}.batch_size={node.batch_size} does not divide over {parts} devices"
        )

    def make_batches(split: str, crop: str = "adm"):
        for batch in host_batches(split, crop):
            batch = sharding.global_batch(batch, mesh)
            yield batch | {"images": _floats(batch["images"])} if "images" in batch else batch

    arguments = {key: value for key, value in node.to_dict().items() if key not in _DATA}
    arguments |= accepted(kind, {"batch_size": node.batch_size})
    if kind.uses:
        arguments["networks"] = set(kind.uses) & set(networks)
    arguments |= {name: make() for name, make in accepted(kind, hooks).items()}
    arguments["name"] = node.name
    evaluator = build("evaluator", arguments, EVALUATORS, codec, make_batches)
    evaluator.needs.check_side(node.image_size, f"evals.{name}.image_size")
    return evaluator


def _eval_batches(
    config: ml_collections.ConfigDict,
    name: str,
    read_source: Callable[..., data.Source],
    arrays: tuple[tuple[str, str], ...],
    mesh: Mesh,
    on_worker_death: Callable[[str], None],
    split: str,
    crop: str,
) -> _Evaluated:
    node = config.evals[name]
    parts, num_parts = sharding.own_parts(mesh)
    names = {"train": config.data.train_split, "validation": config.data.validation_split}
    source = read_source(names[split], arrays)
    if node.tile_size:
        source = data.TileSource(source, node.tile_size)
    batches = data.eval_batches(
        source,
        data.CROPS[crop](node.image_size),
        node.batch_size,
        parts=parts,
        num_parts=num_parts,
        limit=node.limit or None,
        on_worker_death=on_worker_death,
        **config.loader,
    )
    num_images = min(node.limit or len(source), len(source))
    return _Evaluated(batches, Supply(num_images, source.num_classes))


def _cache(
    config: ml_collections.ConfigDict,
    name: str,
    networks: Mapping[str, Any],
    read_source: Callable[..., data.Source],
    workdir: pathlib.Path | None,
) -> ReferenceCache:
    """Where an evaluator keeps statistics of its originals; they are known again by these facts.

    Several processes keep them in memory alone: a folder that not all see would part their ways.
    """
    node = config.evals[name]
    if workdir is None or "inception" not in networks or jax.process_count() > 1:
        return ReferenceCache()
    source = read_source(config.data.validation_split)
    facts = {
        "image_size": node.image_size,
        "tile_size": node.tile_size,
        "limit": node.limit,
        "source": {"name": config.data.name, **source.identity, "num_images": len(source)},
        "decoding": data.decoding_of(source).changes(),
        "network": network_fingerprint("inception", {}, networks["inception"])[0],
    } | data.listing_facts(source, len(source))
    return ReferenceCache(workdir / REFERENCES / name, facts)
