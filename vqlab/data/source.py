"""What a source of images is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vqlab.data.contents import Entry


class Source:
    """Random access to labelled images; picklable, for it is sent to worker processes.

    A new one is a file and a line in `SOURCES`; its arguments are those entries of config.data that
    it takes by name, beside `split`, the name of a split.

    Attributes:
      num_classes: 0 where the images of this split have no labels; "label" is 0 then.
      fields: dtype and shape, by name, of arrays that records hold beside their image.
      setting: the entry of config.data that says which images; "" where the name alone does.
      has_images: whether there are images at all, and not only labels and arrays.
      is_cropped: whether the images are crops already, whose arrays are of these very crops.
      notes: lines on what is in the user's files.
      place: where they lie; "" for a source that is called by its name alone.
    """

    num_classes: int = 1
    fields: Mapping[str, tuple[str, tuple[int, ...]]] = {}
    setting: ClassVar[str] = ""
    has_images: ClassVar[bool] = True
    is_cropped: ClassVar[bool] = False
    notes: tuple[str, ...] = ()
    place: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """The settings that tell it from others of its kind."""
        return {}

    @classmethod
    def known_images(cls, settings: Mapping[str, Any]) -> int | None:
        """Training images with these settings where that is known without reading them."""
        del settings
        return None

    def entries(self, count: int) -> list[Entry]:
        """What tells the first `count` images from others of the same number, see
        `vqlab.data.contents`; [] where they cannot be exchanged."""
        del count
        return []

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, record: int) -> dict[str, Any]:
        """{"image": what `decode_rgb` takes, "label": int, and the arrays of `fields`}.

        Raises one of `decode.UNREADABLE` for a damaged record.
        """
        raise NotImplementedError

    def name(self, record: int) -> str:
        """How messages call a record."""
        raise NotImplementedError
