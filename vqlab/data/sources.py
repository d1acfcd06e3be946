"""Where images come from: one interface, and the sources by name."""

import inspect
from typing import Any, Protocol

from vqlab.data.folder import FolderSource
from vqlab.data.photos import PhotoSource
from vqlab.data.records import RecordSource
from vqlab.data.tfds_records import TfdsSource

SOURCES = {
    "photos": PhotoSource,
    "folder": FolderSource,
    "tfds": TfdsSource,
    "records": RecordSource,
}


class Source(Protocol):
    """Random access to labelled images; picklable, for it is sent to worker processes.

    A source whose records hold arrays beside the image has the attribute `fields`, the dtype and
    shape of each by its name.
    """

    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, record: int) -> dict[str, Any]:
        """{"image": what `decode_rgb` takes, "label": int, and the arrays of `fields`}.

        Raises one of `decode.UNREADABLE` for a damaged record.
        """
        ...

    def name(self, record: int) -> str:
        """How messages call a record."""
        ...


def build_source(name: str, **args) -> Source:
    """Builds the source called `name`.

    `photos(split)`, `folder(path, split)`, `tfds(dataset, split, data_dir)` or `records(path,
    split)`, where `split` is "train" or "validation".

    Raises:
      ValueError: unknown name or arguments, or the data are missing.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data source {name!r}; known: {', '.join(SOURCES)}")
    try:
        inspect.signature(SOURCES[name]).bind(**args)
    except TypeError as error:
        raise ValueError(f"data source {name!r}: {error}") from None
    return SOURCES[name](**args)
