"""Where images come from: one interface, and the sources by name."""

import functools
import inspect
import logging
from typing import Any, Protocol

from vqlab.data.folder import FolderSource
from vqlab.data.photos import PhotoSource
from vqlab.data.records import RecordSource
from vqlab.data.tfds_records import TfdsSource

log = logging.getLogger(__name__)

SOURCES = {
    "photos": PhotoSource,
    "folder": FolderSource,
    "tfds": TfdsSource,
    "records": RecordSource,
}


class Source(Protocol):
    """Random access to labelled images; picklable, for it is sent to worker processes.

    A source whose records hold arrays beside the image has the attribute `fields`, the dtype and
    shape of each by its name. One of encoded files may have `decoding`, how they become RGB; one
    of files of the user's `notes`, lines on what is in them, and `place`, where they lie.

    Attributes:
      num_classes: 0 where the images of this split have no labels; "label" is 0 then.
    """

    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, record: int) -> dict[str, Any]:
        """{"image": what `decode_rgb` takes, "label": int, and the arrays of `fields`}.

        Raises one of `decode.UNREADABLE` for a damaged record.
        """
        ...

    # Where files may be exchanged: def entries(self, count), see vqlab.data.contents.

    def name(self, record: int) -> str:
        """How messages call a record."""
        ...


def build_source(name: str, **args) -> Source:
    """Builds the source called `name`, and says once how many images it has.

    `photos(split)`, `folder(path, split, decoding)`, `tfds(dataset, split, data_dir, decoding)` or
    `records(path, split)`, where `split` is "train" or "validation".

    Raises:
      ValueError: unknown name or arguments, or the data are missing.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data source {name!r}; known: {', '.join(SOURCES)}")
    try:
        inspect.signature(SOURCES[name]).bind(**args)
    except TypeError as error:
        raise ValueError(f"data source {name!r}: {error}") from None
    source = SOURCES[name](**args)
    for note in getattr(source, "notes", ()):
        _warn_once(note)
    _say_once(_describe(source, name, args.get("split", "train")))
    return source


def _describe(source: Source, name: str, split: str) -> str:
    """Such as `train: 1,281,167 images, 1,000 classes, in /data/train`."""
    classes = f"{source.num_classes:,} classes" if source.num_classes else "without labels"
    kinds = "" if source.num_classes == 1 else f", {classes}"
    return f"{split}: {len(source):,} images{kinds}, in {getattr(source, 'place', name)}"


@functools.cache  # evaluators build a source each, of the same images
def _say_once(line: str) -> None:
    log.info("%s", line)


@functools.cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)
