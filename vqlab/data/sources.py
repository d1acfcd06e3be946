"""Where images come from: one interface, and the sources by name."""

import functools
import inspect
import logging

from vqlab.data.codes import CodeSource
from vqlab.data.folder import FolderSource
from vqlab.data.photos import PhotoSource
from vqlab.data.records import RecordSource
from vqlab.data.source import Source
from vqlab.data.tfds_records import TfdsSource
from vqlab.registry import choose

log = logging.getLogger(__name__)

SOURCES = {
    "photos": PhotoSource,
    "folder": FolderSource,
    "tfds": TfdsSource,
    "records": RecordSource,
    "codes": CodeSource,
}


def build_source(name: str, **args) -> Source:
    """Builds the source called `name`, and says once how many images it has.

    `photos(split)`, `folder(path, split, decoding)`, `tfds(dataset, split, data_dir, decoding)`,
    `records(path, split)` or `codes(path, split)`, where `split` is "train" or "validation".

    Raises:
      ValueError: unknown name or arguments, or the data are missing.
    """
    kind = choose("data source", name, SOURCES)
    try:
        inspect.signature(kind).bind(**args)
    except TypeError as error:
        raise ValueError(f"data source {name!r}: {error}") from None
    source = kind(**args)
    for note in source.notes:
        _warn_once(note)
    _say_once(_describe(source, name, args.get("split", "train")))
    return source


def _describe(source: Source, name: str, split: str) -> str:
    """Such as `train: 1,281,167 images, 1,000 classes, in /data/train`."""
    classes = f"{source.num_classes:,} classes" if source.num_classes else "without labels"
    kinds = "" if source.num_classes == 1 else f", {classes}"
    return f"{split}: {len(source):,} images{kinds}, in {source.place or name}"


@functools.cache  # evaluators build a source each, of the same images
def _say_once(line: str) -> None:
    log.info("%s", line)


@functools.cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)
