"""A folder of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from vqlab.data.contents import Entry, file_entries
from vqlab.data.decode import PLAIN, Decoding
from vqlab.data.folder_splits import (
    SPLIT_FOLDERS,
    check_class_names,
    class_names,
    folder_of,
    split_folders,
    without_lone_folder,
)
from vqlab.data.listing import describe_skipped, list_images
from vqlab.data.source import Source


class FolderSource(Source):
    """The images below a folder that Pillow reads, whatever the case of their extensions.

    `path` may hold folders of its splits (see `SPLIT_FOLDERS`); without any of these the whole
    folder serves for every split. Sub-folders are classes, labelled by sorted name over all
    splits and searched recursively; images that lie flat have label 0. Where only one split has
    classes the other has no labels. Hidden files and the folders that systems make are left out;
    of an animation or a file of several pages the first is taken.

    Args:
      path: the folder.
      split: "train" or "validation".
      decoding: how the files become RGB.

    Attributes:
      num_classes: over all splits; 0 where this split's images have no labels.
      class_names: in the order of their labels.
      notes: what a user has to know of these images, in lines.
      place: the folder of this split.

    Raises:
      ValueError: the folder, the split's folder or images in it are missing, images lie beside
        class folders, or a class is called like a split.
      OSError: a folder that cannot be listed.
    """

    setting: ClassVar[str] = "path"

    def __init__(self, path: str, split: str = "train", decoding: Decoding = PLAIN):
        if split not in SPLIT_FOLDERS:
            raise ValueError(f"a folder has no split {split!r}; known: {list(SPLIT_FOLDERS)}")
        root = Path(path).expanduser()
        if not path or not root.is_dir():
            raise ValueError(f"image folder {str(path)!r} does not exist or is no folder")
        self.decoding = decoding
        self._path = str(path)
        splits = split_folders(root)
        folder = folder_of(root, splits, split)
        self.place = str(folder)
        self._files, skipped = list_images(folder)
        self.notes = _notes(root, folder, splits, skipped)
        if not self._files:
            raise ValueError(
                f"no images in {folder}: looked for .jpg, .png, .webp and what else Pillow reads, "
                "directly in it or in class sub-folders; found "
                + (describe_skipped(skipped) or "no file")
            )
        own = {name.split(os.sep, 1)[0] for name in self._files if os.sep in name}
        flat = [name for name in self._files if os.sep not in name]
        if flat and own:
            raise ValueError(
                f"{folder} holds images ({flat[0]}, ...) beside class sub-folders; use one layout"
            )
        others = {n for name, each in splits.items() if name != split for n in class_names(each)}
        check_class_names(folder, {os.path.dirname(name) for name in self._files}, others)
        own, others = without_lone_folder(own, others), without_lone_folder(others, own)
        self.class_names = sorted(own | others)
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._labels = [labels.get(name.split(os.sep, 1)[0], 0) for name in self._files]
        self.num_classes = len(self.class_names) if own else 0 if others else 1

    @property
    def identity(self) -> dict[str, str]:
        """The folder as it was given."""
        return {"path": self._path}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, record: int) -> dict:
        """{"image": encoded bytes, "label": int}."""
        path = os.path.join(self.place, self._files[record])
        return {"image": Path(path).read_bytes(), "label": self._labels[record]}

    def entries(self, count: int) -> list[Entry]:
        """What tells the first `count` images from others, see `vqlab.data.contents`."""
        return file_entries(self._files[:count], self._labels, self.name)

    def name(self, record: int) -> str:
        """The file's path."""
        return os.path.join(self.place, self._files[record])


def _notes(root: Path, folder: Path, splits: dict[str, Path], skipped) -> list[str]:
    notes = []
    if not splits or (len(splits) == 2 and os.path.samefile(*splits.values())):
        notes.append(
            f"{folder} serves both splits, so what is trained on is validated on; for other images"
            f" put train and val folders into {root}"
        )
    if skipped:
        notes.append(f"left out in {folder}, no images: {describe_skipped(skipped)}")
    return notes
