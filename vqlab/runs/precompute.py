"""Runs a network once over a data set and stores what it makes, as records to train from."""

from __future__ import annotations

import collections
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vqlab import data
from vqlab.export.fingerprint import fingerprint
from vqlab.inference import load_only
from vqlab.runs import parts
from vqlab.runs.whole_networks import place_nodes
from vqlab.training import sharding
from vqlab.training.telemetry import ProgressBar

SPLITS = ("train", "validation")
WHAT = ("latents", "indices", "concepts")


class Encoder(NamedTuple):
    """Networks to run over images.

    Attributes:
      arrays: (weights, images [B, H, W, 3] in [-1, 1]) -> arrays [B, ...] by name.
      weights: theirs.
      made_by: of each array, the fingerprint of its network and that network in words.
      sizes: of a tokenizer, see `vqlab.data.manifest.Manifest`.
    """

    arrays: Callable[[Any, jax.Array], dict[str, jax.Array]]
    weights: Any
    made_by: Mapping[str, tuple[str, str]]
    sizes: Mapping[str, int]


def build_encoder(
    what: str, config: ml_collections.ConfigDict, source: str | pathlib.Path | None, dtype: str
) -> Encoder:
    """What makes the arrays `what`.

    Args:
      what: "latents" for the frozen networks of a Semanticist's config, "indices" or "concepts"
        for a trained tokenizer.
      config: for "latents" the model, and the size of the images for all.
      source: workdir or export of the trained tokenizer.
      dtype: of moments and concepts; REPA's features are always float16.

    Raises:
      ValueError: nothing to make, or the tokenizer is of another kind or image size.
    """
    if what not in WHAT:
        raise ValueError(f"cannot make {what!r}; choose from {', '.join(WHAT)}")
    if what == "latents":
        return _latent_encoder(config, dtype)
    if not source:
        raise ValueError(f"{what} need a trained tokenizer: give --source=WORKDIR_OR_EXPORT")
    tokenizer = load_only("tokenizer", source)
    codec = tokenizer.codec
    if codec.name != what:
        raise ValueError(f"{source} makes {codec.name} ({codec.card().title}) and no {what}")
    codec.check_image_size(config.image_size, "image_size")
    weights = tokenizer.weights._replace(frozen={})  # only decoding needs them

    def arrays(weights, images):
        code = codec.encode(weights, images)
        return {what: code if codec.codebook_size else code.astype(dtype)}

    mark = fingerprint(tokenizer.node, weights.variables)
    return Encoder(arrays, weights, {what: (mark, "tokenizer")}, codec.sizes)


def _latent_encoder(config: ml_collections.ConfigDict, dtype: str) -> Encoder:
    """What the frozen networks of the config's objective add to a batch."""
    place_nodes(config)
    objective = parts.build_objective(config)
    stored = objective.stored
    if not stored:
        raise ValueError(
            f"nothing to precompute for this {config.model.name}: no frozen network makes anything "
            "of its images, as an autoencoder's latent space or REPA's DINOv2 would"
        )
    frozen = parts.build_frozen(config, objective)

    def arrays(weights, images):
        made = objective.prepare(weights, {"images": images})
        return {name: made[name].astype(array.dtype or dtype) for name, array in stored.items()}

    return Encoder(arrays, frozen, parts.stored_fingerprints(config, objective, frozen), {})


def build_views(
    config: ml_collections.ConfigDict,
    split: str,
    *,
    flip: bool = False,
    num_random: int = 0,
    ten_crop: Sequence[float] = (),
) -> data.Views:
    """The crops of a split: of the training images as asked for, of the others the centre.

    Args:
      config: of the data.
      split: "train" or "validation".
      flip: the centre's mirror image too.
      num_random: random crops of each image, by config.augment.
      ten_crop: ten crops of each image at each of these scales, see `vqlab.data.TenCropViews`.

    Raises:
      ValueError: more than one of the three, or scales below 1.
    """
    asked = {"flip": flip, f"views={num_random}": num_random, "ten_crop": ten_crop}
    if len(given := [name for name, value in asked.items() if value]) > 1:
        raise ValueError(
            f"{' and '.join(given)} exclude each other: random views flip by config.augment.flip, "
            "ten crops hold their mirror images"
        )
    if split == "train" and num_random:
        transform = data.TrainTransform(config.image_size, **config.augment)
        return data.RandomViews(transform, num_random, config.seed)
    if split == "train" and ten_crop:
        return data.TenCropViews(config.image_size, tuple(ten_crop))
    return data.CenterViews(config.image_size, flip=flip and split == "train")


class Job:
    """The records of one split; `begin` before `write`, on every process.

    Args:
      what: see `build_encoder`.
      encoder: what makes the arrays.
      mesh: of this process's devices.
      config: of the data.
      split: "train" or "validation".
      output: a folder of this name is written there.
      views: see `build_views`.
      batch_size, records_per_shard, limit: see `vqlab.data.ViewBatches`.
      images: "webp" to store the crops, or "none" for the arrays alone, indices then packed to the
        bits that they need.

    Raises:
      ValueError: a setting cannot work.
    """

    def __init__(
        self,
        what: str,
        encoder: Encoder,
        mesh: Mesh,
        config: ml_collections.ConfigDict,
        split: str,
        output: str | pathlib.Path,
        views: data.Views,
        *,
        batch_size: int,
        records_per_shard: int,
        limit: int | None = None,
        images: str = "webp",
    ):
        if images == "none" and what == "latents":
            raise ValueError("latents are trained from beside their images; leave out images=none")
        if batch_size % mesh.size:
            raise ValueError(f"batch_size={batch_size} does not divide over {mesh.size} devices")
        self.split = split
        self._encoder = encoder
        self._mesh = mesh
        name = config.data[f"{split}_split"]
        source = parts.build_source(config.data, name)
        self._batches = data.ViewBatches(
            source,
            views,
            batch_size,
            records_per_shard=records_per_shard,
            limit=limit,
            **config.loader,
        )
        manifest = data.Manifest(
            what=what,
            image_size=config.image_size,
            num_classes=source.num_classes,
            fields=_fields(encoder, config.image_size, packed=images == "none"),
            views=views.describe(),
            source=_source_facts(config.data.name, source, name, self._batches.num_images)
            | _decoding_facts(source)
            | _listing_facts(source, self._batches.num_images),
            records_per_shard=records_per_shard,
            images=images,
            tokenizer=encoder.sizes,
        )
        self._writer = data.RecordWriter(
            pathlib.Path(output).expanduser() / split,
            manifest,
            self._batches.num_shards,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def begin(self, *, overwrite: bool = False) -> None:
        """Makes the folder.

        Raises:
          ValueError: records of another job are there; with `overwrite` they are deleted.
        """
        if jax.process_index() == 0:
            self._writer.begin(overwrite=overwrite)
        _wait_for_all(f"{self.split} begins")
        self._writer.check()

    def write(self) -> data.Manifest | None:
        """Makes what is missing; the finished manifest, on process 0.

        Raises:
          RecordFileError: an array that is not finite, or a file that cannot be written.
          CorruptDataError: too many images are corrupt.
        """
        shards = self._writer.missing()
        lengths = [self._batches.batches_in(shard) for shard in shards]
        with ProgressBar(sum(lengths), description=self.split) as bar, jax.set_mesh(self._mesh):
            encoded = _encoded(self._encoder, self._mesh, self._batches.read(shards))
            for shard, length in zip(shards, lengths, strict=True):
                with self._writer.shard(shard) as file:
                    for batch, arrays in itertools.islice(encoded, length):
                        keep = batch["mask"]
                        arrays = {name: array[keep] for name, array in arrays.items()}
                        file.write(batch["images_u8"][keep], batch["labels"][keep], arrays)
                        bar.update()
        _wait_for_all(f"{self.split} ends")
        return self._writer.finish() if jax.process_index() == 0 else None


def _source_facts(name: str, source: data.Source, split: str, num_images: int) -> dict[str, Any]:
    return {"name": name, **source.identity, "split": split, "num_images": num_images}


def _decoding_facts(source: data.Source) -> dict[str, Any]:
    """How the images became RGB, if not by the defaults."""
    changes = data.decoding_of(source).changes()
    return {"decoding": changes} if changes else {}


def _listing_facts(source: data.Source, num_images: int) -> dict[str, str]:
    """On process 0 alone: each may read a copy of its own, with other times."""
    return data.listing_facts(source, num_images) if jax.process_index() == 0 else {}


def training_flags(config: ml_collections.ConfigDict, path: pathlib.Path) -> list[str]:
    """The flags of vqlab.main that train from the records in `path`."""
    flags = ["--config.data.name=records", f"--config.data.path={path}"]
    for split in SPLITS:
        if config.data[f"{split}_split"] != split:
            flags.append(f"--config.data.{split}_split={split}")
    return flags


def _fields(encoder: Encoder, size: int, *, packed: bool) -> dict[str, data.Field]:
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    shapes = jax.eval_shape(encoder.arrays, encoder.weights, images)
    bits = {}
    if packed and "indices" in shapes:
        bits["indices"] = data.bits_for(encoder.sizes["codebook_size"])
    return {
        name: data.Field(
            leaf.dtype.name, leaf.shape[1:], *encoder.made_by[name], bits=bits.get(name)
        )
        for name, leaf in shapes.items()
    }


def _encoded(
    encoder: Encoder, mesh: Mesh, batches: Iterable[dict]
) -> Iterator[tuple[dict, dict[str, np.ndarray]]]:
    """Each batch with its arrays, while the devices are at the next one."""
    weights = jax.device_put(encoder.weights, sharding.replicated(mesh))
    put = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
    encode = jax.jit(encoder.arrays)
    pending = collections.deque()
    for batch in batches:
        images = put(batch["images_u8"])
        pending.append((batch, encode(weights, images)))
        if len(pending) > 1:
            yield jax.device_get(pending.popleft())
    while pending:
        yield jax.device_get(pending.popleft())


def _wait_for_all(where: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)
