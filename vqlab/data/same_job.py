"""Whether records that lie in a folder are those of the job that would go on there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqlab.data.manifest import MANIFEST_FILE, Manifest

# What `vqlab.data.contents` tells of the source.
_LISTING, _TIMES = "source.listing", "source.times"


def check_same_job(there: Manifest, manifest: Manifest, folder: str | Path) -> None:
    """Checks that a folder's records are of the same images, networks and settings.

    The images' listing is compared only where both have it: records of older versions have none,
    and of several processes one makes it.

    Args:
      there: the folder's manifest.
      manifest: what will be written, without shards.
      folder: for the message.

    Raises:
      ValueError: they are not, with what differs.
    """
    old, new = _facts(there), _facts(manifest)
    one_sided = {name for name in (_LISTING, _TIMES) if name not in old or name not in new}
    names = [n for n in {**new, **old} if old.get(n) != new.get(n) and n not in one_sided]
    if not names:
        return
    facts = "; ".join(f"{name} was {old.get(name)}, now {new.get(name)}" for name in names)
    if names == [_TIMES]:
        raise ValueError(
            f"{folder} holds records of images whose files have changed since, though not their "
            f"names and sizes ({facts}); give another folder, or overwrite, or, if they are the "
            f"same images copied anew, delete the line of times in {MANIFEST_FILE}"
        )
    if set(names) <= {_LISTING, _TIMES}:
        raise ValueError(
            f"{folder} holds records of other images: files of the source were exchanged, renamed "
            f"or labelled otherwise since ({facts}); give another folder, or overwrite"
        )
    raise ValueError(
        f"{folder} holds records of another job ({facts}); give another folder, or overwrite"
    )


def _facts(manifest: Manifest) -> dict[str, Any]:
    """What tells jobs apart, by dotted names."""
    content = dataclasses.replace(manifest, shards=None).to_json()
    # The tokenizer's sizes follow from its fingerprint, and the first format lacks them.
    for name in ("format", "num_records", "shards", "tokenizer"):
        del content[name]
    return dict(_flat(content))


def _flat(node: Mapping[str, Any], prefix: str = ""):
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
