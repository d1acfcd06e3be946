"""What tells a source's images from others of the same number, to notice an exchange."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

# A network file system takes a millisecond for each question, but many at a time.
NUM_THREADS = 32


class Entry(NamedTuple):
    """One image, or all of them.

    Attributes:
      name: its path in the source, and what else must not change, such as its label.
      size: in bytes.
      time: of its last change, in whole seconds, which every archive and copy can keep.
    """

    name: str
    size: int
    time: int = 0


def file_entries(
    names: Sequence[str], labels: Sequence[int], path_of: Callable[[int], str]
) -> list[Entry]:
    """Entries of files, in this order.

    A file that is gone has the size -1: it is as unreadable as a damaged one.

    Args:
      names: their paths in the source.
      labels: theirs.
      path_of: number of a file -> where it lies.
    """

    def entry(number: int) -> Entry:
        name = f"{names[number]}\t{labels[number]}"
        try:
            found = os.stat(path_of(number))
        except OSError:
            return Entry(name, -1)
        return Entry(name, found.st_size, int(found.st_mtime))

    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(entry, range(len(names))))


def listing_facts(source, count: int) -> dict[str, str]:
    """Fingerprints of the first `count` images of a source, in JSON types.

    "times" is of their last changes, "listing" of their names, labels and sizes: two, because a
    copy may lose the times. {} for a source that cannot tell.

    Args:
      source: its method `entries(count)` gives the `Entry`s.
      count: of images.
    """
    entries = source.entries(count)
    if not entries:
        return {}
    return {
        "times": _fingerprint(str(entry.time) for entry in entries),
        "listing": _fingerprint(f"{entry.name}\t{entry.size}" for entry in entries),
    }


def _fingerprint(lines: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]
