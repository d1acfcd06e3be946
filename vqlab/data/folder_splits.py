"""Which folders are splits, which are classes, and which could be either."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vqlab.data.listing import has_images, sub_folders

# What the folder of a split may be called, in any case; the first that is there is taken.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test"),
}
SPLIT_OF = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits that are there, by split.

    Raises:
      ValueError: what is called like a split may be a class.
    """
    names = sub_folders(root)
    found = {}
    for split, choices in SPLIT_FOLDERS.items():
        fitting = [name for name in names if name.lower() in choices and has_images(root / name)]
        if fitting:  # "val" is taken before "Val", if both are there
            best = min(fitting, key=lambda name: (choices.index(name.lower()), name.swapcase()))
            found[split] = root / best
    rest = [name for name in names if name.lower() not in SPLIT_OF]
    if len(found) == 1:
        (own,) = found.values()
        if beside := next((name for name in rest if has_images(root / name)), None):
            raise ValueError(
                f"{own} is called like a split but lies beside other images, in {root / beside}:"
                " put the classes into one folder for each split, or rename it if it is a class"
            )
    if not found:
        _check_words(root, [name for name in rest if _split_of_words(name)])
    return found


def _check_words(root: Path, names: list[str]) -> None:
    """Refuses classes such as train2017 beside val2017."""
    by_split = {_split_of_words(name): name for name in names if has_images(root / name)}
    if len(by_split) > 1:
        raise ValueError(
            f"{' and '.join(sorted(by_split.values()))} in {root} are called like splits, not like "
            "classes; name the folders of the splits train and validation"
        )


def _split_of_words(name: str) -> str | None:
    """The split that a word of the name means: train2017 or img_train."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), None)


def folder_of(root: Path, splits: dict[str, Path], split: str) -> Path:
    """The folder of a split: `root` where none has its own.

    Raises:
      ValueError: only the other split has one.
    """
    if not splits:
        return root
    if split not in splits:
        held = ", ".join(folder.name for folder in splits.values())
        raise ValueError(
            f"no {split} images: looked for {' or '.join(SPLIT_FOLDERS[split])} in {root}, which"
            f" only has {held}"
        )
    return splits[split]


def class_names(folder: Path) -> list[str]:
    """Sub-folders that hold at least one image, at any depth."""
    return [name for name in sub_folders(folder) if has_images(folder / name)]


def check_class_names(folder: Path, parents: Iterable[str], others: set[str]) -> None:
    """Refuses folders of images called like a split: splits that lie deeper than expected.

    A class may be called so (CIFAR-100 has one called train) if the other split has it too.

    Args:
      folder: of a split.
      parents: all folders of images in it, relative to it.
      others: classes of the other split.
    """
    for parent in sorted(parents):
        parts = parent.split(os.sep)
        for depth, part in enumerate(parts):
            if part.lower() in SPLIT_OF and not (depth == 0 and part in others):
                holder = folder.joinpath(*parts[:depth])
                raise ValueError(
                    f"{holder / part} is called like a split, not like a class; set"
                    f" --config.data.path={holder}, or rename it if it is a class"
                )


def without_lone_folder(names: set[str], others: set[str]) -> set[str]:
    """No class if there is but one folder that the other split, which has classes, lacks.

    So a flat ImageNet in val/images is as flat as one in val.
    """
    return set() if len(names) == 1 and others and not names & others else names
