"""Which files below a folder are images."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image, features

from vqlab.data.decode import UNREADABLE

# Pictures that Pillow always reads. It reads more (PDF, HDF5, MPEG), which are no photographs.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".tga"),
)
# Those that it reads where it was built with a library, by the name of that library there.
OPTIONAL_EXTENSIONS = {"avif": (".avif",), "jpg_2000": (".jp2", ".j2k")}
# A file without extension is an image if it begins as one of these does.
SNIFFED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Folders of thumbnails, deleted files and the like that systems make beside images, in lower case.
# Those whose names begin with a dot (.thumbnails, .ipynb_checkpoints) are left out anyway.
SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # network storage
    *("__macosx", "$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}

Identity = tuple[int, int]  # of a folder, whatever its path: device and inode


class Listing(NamedTuple):
    """Paths of the images relative to the folder, sorted; and how many files are none, by why."""

    files: list[str]
    skipped: Mapping[str, int]


@functools.cache
def known_extensions() -> frozenset[str]:
    """Extensions of what Pillow reads here, in lower case."""
    optional = (names for key, names in OPTIONAL_EXTENSIONS.items() if features.check(key))
    return frozenset(EXTENSIONS).union(*optional)


def list_images(folder: Path) -> Listing:
    """All images at any depth. Sorted, for the order must not hang on the disk's.

    Links to folders are followed, but never to one that the path leads through already. Only
    regular files count: a pipe called x.jpg would be waited on for ever.

    Raises:
      OSError: a folder that cannot be listed.
    """
    start = len(os.path.join(folder, ""))
    files, skipped = [], collections.Counter()
    for entry in _walk(folder):
        reason = _why_skipped(entry)
        if reason is None:
            files.append(entry.path[start:])
        else:
            skipped[reason] += 1
    return Listing(sorted(files), skipped)


def has_images(folder: Path) -> bool:
    """Whether there is an image at any depth."""
    return any(_why_skipped(entry) is None for entry in _walk(folder))


def sub_folders(folder: Path) -> list[str]:
    """Names of the folders directly in `folder` that are not a system's, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if _is(e.is_dir) and not _is_system_folder(e.name))


def describe_skipped(skipped: Mapping[str, int], most: int = 8) -> str:
    """The commonest reasons with their counts: `3 .txt, 1 without extension`."""
    counts = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    more = sum(count for _, count in counts[most:])
    words = [f"{count:,} {reason}" for reason, count in counts[:most]]
    return ", ".join(words + [f"{more:,} others"] * bool(more))


def _why_skipped(entry: os.DirEntry) -> str | None:
    """None for an image."""
    extension = os.path.splitext(entry.name)[1].lower()
    if extension and extension not in known_extensions():
        return extension
    if not _is(entry.is_file):
        return "pipes, devices or broken links"
    return None if extension or _begins_as_image(entry.path) else "without extension"


def _begins_as_image(path: str) -> bool:
    try:
        with Image.open(path, formats=_sniffed_formats()):
            return True
    except Image.DecompressionBombError:  # an image, if one that decoding will refuse
        return True
    except UNREADABLE:
        return False


@functools.cache
def _sniffed_formats() -> tuple[str, ...]:
    return (*SNIFFED_FORMATS, "AVIF") if features.check("avif") else SNIFFED_FORMATS


def _walk(folder: Path) -> Iterator[os.DirEntry]:
    """What is no folder, at any depth, without hidden files."""
    pending = [(os.fspath(folder), _folders_above(folder))]
    while pending:
        path, above = pending.pop()
        own = _identity(path)
        if own in above:
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                if not _is(entry.is_dir):
                    if not entry.name.startswith("."):
                        yield entry
                elif not _is_system_folder(entry.name):
                    links = _folders_above(entry.path) if entry.is_symlink() else frozenset()
                    pending.append((entry.path, above | links | {own}))


def _is(question) -> bool:
    """A DirEntry's `is_dir` or `is_file`; False for a link that leads nowhere or to itself."""
    try:
        return question()
    except OSError:
        return False


def _is_system_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _identity(path: str | os.PathLike) -> Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders_above(path: str | os.PathLike) -> frozenset[Identity]:
    """The folders that hold `path` and what it links to, without itself."""
    parents = {*Path(os.path.abspath(path)).parents, *Path(os.path.realpath(path)).parents}
    return frozenset(map(_identity, parents)) - {_identity(path)}
