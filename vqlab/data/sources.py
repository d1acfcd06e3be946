"""Where images come from: one interface, and the sources by name."""

import functools
import inspect
import logging
from collections.abc import Collection

from vqlab.data.digits import DigitSource
from vqlab.data.folder import FolderSource
from vqlab.data.photos import PhotoSource
from vqlab.data.records import RecordSource
from vqlab.data.source import Source
from vqlab.data.tfds_records import TfdsSource
from vqlab.registry import choose

log = logging.getLogger(__name__)

SOURCES = {
    "photos": PhotoSource,
    "digits": DigitSource,
    "folder": FolderSource,
    "tfds": TfdsSource,
    "records": RecordSource,
}


def build_source(name: str, *, arrays: Collection[str] = (), **args) -> Source:
    """Builds the source called `name`, and says once how many images it has.

    Where records hold one of `arrays`, which can stand for images, no image is read.

    `photos(split)`, `digits(split)`, `folder(path, split, decoding)`,
    `tfds(dataset, split, data_dir, decoding)` or `records(path, split)`, where `split` is "train"
    or "validation".

    Raises:
      ValueError: unknown name or arguments, or the data are missing.
    """
    kind = choose("data source", name, SOURCES)
    try:
        inspect.signature(kind).bind(**args)
    except TypeError as error:
        raise ValueError(f"data source {name!r}: {error}") from None
    source = (kind.for_arrays(arrays, **args) if arrays else kind)(**args)
    for note in source.notes:
        _warn_once(note)
    _say_once(_describe(source, name, args.get("split", "train")))
    return source


def _describe(source: Source, name: str, split: str) -> str:
    """Such as `train: 1,281,167 images, 1,000 classes, in /data/train`."""
    count, views = len(source), source.num_views
    images = f"{-(-count // views):,} images" + (f", {views} views of each" if views > 1 else "")
    classes = f"{source.num_classes:,} classes" if source.num_classes else "without labels"
    kinds = "" if source.num_classes == 1 else f", {classes}"
    return f"{split}: {images}{kinds}, in {source.place or name}"


@functools.cache  # evaluators build a source each, of the same images
def _say_once(line: str) -> None:
    log.info("%s", line)


@functools.cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)
