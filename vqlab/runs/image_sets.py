"""Folders, sample batches and statistics that other programs made, measured against each other."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vqlab import data
from vqlab.evaluation.measures import check_measures, needs_sets
from vqlab.evaluation.protocol_state import ProtocolState
from vqlab.evaluation.protocols import Protocol
from vqlab.evaluation.set_evaluation import add_pairs, add_sets, summarise
from vqlab.evaluation.set_measures import lacking
from vqlab.evaluation.statistics_file import load_statistics, save_statistics
from vqlab.evaluation.summary import Summary
from vqlab.export.frozen import network_fingerprint
from vqlab.training import sharding
from vqlab.training.disk import write_text

log = logging.getLogger("vqlab")

Show = Callable[[str, Iterable, int], Iterable]


@dataclasses.dataclass
class Reader:
    """How sets are read: by batches over the devices of a mesh.

    Attributes:
      mesh: where batches lie.
      batch_size: of the global batch.
      crop, image_size: of images before anything; "" and 0 for whole images.
      show: is given (words, batches, number of images), to show how far it is.
    """

    mesh: Mesh
    batch_size: int
    crop: str = ""
    image_size: int = 0
    show: Show = lambda words, batches, count: batches

    def __post_init__(self):
        parts = sharding.batch_parts(self.mesh)
        if self.batch_size < 1 or self.batch_size % parts:
            raise ValueError(f"batch_size={self.batch_size} does not divide over {parts} devices")

    def open(self, path: str) -> data.ImageSet:
        """The images of a folder or file; what is to know of them is logged."""
        crop = data.CROPS[self.crop](self.image_size) if self.image_size else None
        images = data.open_images(path, crop)
        if jax.process_index() == 0:
            sizes = sorted(set(images.sizes) - {(0, 0)})
            size = f"{sizes[-1][1]}x{sizes[-1][0]}"
            size = size if len(sizes) == 1 else f"{len(sizes)} sizes up to {size}"
            log.info("%s: %s images, %s", path, f"{len(images):,}", size)
            for note in images.notes:
                log.warning("%s: %s", path, note)
        return images

    def batches(
        self, *sets: data.ImageSet, rows: Sequence[tuple[int, ...]] | None = None
    ) -> data.SizeBatches:
        """Of a set, or of pairs of two."""
        rows = [(number,) for number in range(len(sets[0]))] if rows is None else rows
        parts, num_parts = sharding.own_parts(self.mesh)
        return data.SizeBatches(sets, rows, self.batch_size, parts, num_parts)

    def read(self, words: str, batches: data.SizeBatches) -> Iterator[dict]:
        """The batches on the devices, in uint8."""
        for batch in self.show(words, batches, len(batches.rows)):
            yield sharding.global_batch(batch, self.mesh)


def measure_sets(
    images: str,
    reference: str,
    measures: Mapping[Protocol, Sequence[str]],
    networks: Mapping[str, Any],
    reader: Reader,
) -> tuple[dict[str, float], dict[str, str]]:
    """({"images/PROTOCOL/METRIC": value}, how each was measured) of one set against another.

    Args:
      images: a folder, or ADM's samples in a .npz file.
      reference: the same, or statistics.
      measures: of each protocol.
      networks: the frozen networks that are given.
      reader: how to read.

    Raises:
      ValueError: one line on what does not fit, before anything compiles where that shows before.
    """
    for protocol, names in measures.items():
        check_measures(names, networks)
        if protocol.crop != (reader.crop or "whole"):
            raise ValueError(f"{protocol.name} is of {protocol.crop} crops, not {reader.crop}")
    samples = reader.open(images)
    states = [ProtocolState(protocol, names) for protocol, names in measures.items()]
    paired = [state for state in states if state.is_of_pairs]
    if paired and is_statistics(reference):
        raise ValueError(f"psnr, ssim and lpips need images as reference, not {reference}")
    others = None if is_statistics(reference) else reader.open(reference)
    pairs = data.pairs_by_name(samples, others) if paired else []
    of_sets = [state for state in states if state.is_of_sets]
    known = {}
    if of_sets:
        known = _references(reference, others, measures, networks, reader)
        batches = reader.read("images", reader.batches(samples))
        add_sets(batches, networks["inception"], of_sets)
    if paired:
        batches = reader.read("pairs", reader.batches(samples, others, rows=pairs))
        add_pairs(batches, networks.get("lpips"), paired)
    values, texts = {}, {}
    for state in states:
        for metric, (value, text) in state.compute(known.get(state.protocol)).items():
            name = f"images/{state.protocol.name}/{metric}"
            values[name], texts[name] = value, text
    return values, texts


def is_statistics(path: str) -> bool:
    """Whether a reference is a file without images."""
    return path.endswith(".npz") and not data.holds(path, data.SAMPLES)


def _references(
    reference: str,
    others: data.ImageSet | None,
    measures: Mapping[Protocol, Sequence[str]],
    networks: Mapping[str, Any],
    reader: Reader,
) -> dict[Protocol, Summary]:
    """What is known of a reference, by statistics as far as it has them, else by its images.

    ADM's references hold both. Their statistics are of features as torch-fidelity's: a protocol
    that prepares images in another way takes the images.
    """
    asked = {protocol: names for protocol, names in measures.items() if needs_sets(names)}
    known = {
        protocol: load_statistics(reference, statistics_facts(protocol, networks, reader))
        for protocol in asked
        if others is None or (data.holds(reference, "mu") and protocol.preparation == "tf1")
    }
    if others is None:
        return known
    unknown = {p: names for p, names in asked.items() if p not in known or lacking(known[p], names)}
    if not unknown:
        return known
    batches = reader.read("reference", reader.batches(others))
    found = summarise(batches, networks["inception"], unknown)
    for protocol in unknown:
        count, gaussians, rows = found[protocol.preparation]
        stored = known[protocol].gaussians if protocol in known else {}
        known[protocol] = Summary(count, {**gaussians, **stored}, rows)
    return known


def statistics_facts(
    protocol: Protocol, networks: Mapping[str, Any], reader: Reader
) -> dict[str, Any]:
    """What tells statistics of a set from those of another kind."""
    return {
        "protocol": protocol.name,
        "network": network_fingerprint("inception", {}, networks["inception"])[0],
        "image_size": reader.image_size,
    }


def write_statistics(
    path: str,
    images: str,
    protocol: Protocol,
    measures: Sequence[str],
    networks: Mapping[str, Any],
    reader: Reader,
) -> Summary:
    """Writes the statistics of a set, all that the measures take of a reference.

    Raises:
      ValueError: as `measure_sets`, or the file's name is no .npz.
      OSError: naming the file.
    """
    check_measures(measures, networks)
    if not path.endswith(".npz"):
        raise ValueError(f"{path}: statistics are written as .npz")
    batches = reader.read("images", reader.batches(reader.open(images)))
    summary = summarise(batches, networks["inception"], {protocol: measures})[protocol.preparation]
    if jax.process_index() == 0:
        save_statistics(path, summary, statistics_facts(protocol, networks, reader))
    return summary


def save_values(
    path: pathlib.Path, values: Mapping[str, float], texts: Mapping[str, str], **facts: Any
) -> None:
    """Writes numbers as JSON, each with its protocol, in one move; on process 0."""
    if jax.process_index() == 0:
        results = {
            name: {"value": value if np.isfinite(value) else None, "protocol": texts[name]}
            for name, value in values.items()
        }
        write_text(path, json.dumps({**facts, "results": results}, indent=2) + "\n")
