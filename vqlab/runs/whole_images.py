"""A tokenizer measured on whole images of any size."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.protocol_evaluator import ProtocolEvaluator
from vqlab.models.codec import Codec, Weights
from vqlab.models.whole_images import WholeImages
from vqlab.ops.pixels import as_floats
from vqlab.runs.image_sets import Reader
from vqlab.training import sharding

log = logging.getLogger("vqlab")


def whole_evaluator(
    codec: Codec, images: str, networks: Mapping[str, Any], reader: Reader, **arguments: Any
) -> tuple[Evaluator, tuple[int, int]]:
    """(what measures a tokenizer's reconstructions of a set, the largest image's sides).

    Without a crop images are whole: their sides are padded to the stride by reflection, and what
    is made of them is cropped back.

    Raises:
      ValueError: the network cannot take images of one of the sizes.
    """
    whole = WholeImages(codec)
    opened = reader.open(images)
    for height, width in sorted(set(opened.sizes) - {(0, 0)}):
        whole.check_images(np.broadcast_to(np.float32(0), (1, height, width, 3)))
    floats = jax.jit(as_floats)

    def make_batches(split: str, crop: str = "") -> Iterator[dict]:
        del split, crop  # all protocols see the same
        for batch in reader.read("images", reader.batches(opened)):
            yield batch | {"images": floats(batch["images"])}

    arguments |= {"crop": reader.crop or "whole", "networks": networks}
    evaluator = ProtocolEvaluator(whole, make_batches, **arguments)
    side = min(min(size) for size in opened.sizes if all(size))
    evaluator.needs.check_side(side, "the smallest image's side")
    return evaluator, max(opened.sizes, key=lambda size: size[0] * size[1])


def log_memory(codec: Codec, weights: Weights, largest: tuple[int, int], reader: Reader) -> None:
    """Says what a batch of the `largest` (height, width) takes, from the compiled programs."""
    height, width = largest
    batch = jax.ShapeDtypeStruct(
        (reader.batch_size, height, width, 3),
        np.float32,
        sharding=sharding.batch_sharding(reader.mesh),
    )
    codec = WholeImages(codec)
    place = sharding.replicated(reader.mesh)
    weights = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), weights
    )
    encode = jax.jit(codec.encode)
    code = jax.eval_shape(encode, weights, batch)
    code = jax.ShapeDtypeStruct(code.shape, code.dtype, sharding=batch.sharding)
    decode = jax.jit(codec.decode)
    key = jax.random.key(0)
    programs = [encode.lower(weights, batch), decode.lower(weights, code, codec.units.total, key)]
    sizes = [program.compile().memory_analysis() for program in programs]
    if jax.process_index() == 0 and all(sizes):
        most = max(
            s.temp_size_in_bytes + s.argument_size_in_bytes + s.output_size_in_bytes for s in sizes
        )
        log.info(
            "memory: a batch of %d of %dx%d takes about %.2f GiB on each device",
            *(reader.batch_size, width, height, most / 2**30),
        )
