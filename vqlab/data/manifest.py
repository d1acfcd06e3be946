"""What lies in a folder of records: its manifest, and whether it fits what is trained."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = "vqlab-records-2"
# Also read: the first format knew neither `images` nor `tokenizer`, nor a field's `bits`.
FORMATS = ("vqlab-records-1", FORMAT)
IMAGES = ("webp", "none")
MANIFEST_FILE = "manifest.json"
# Names that records and batches use themselves.
RESERVED = ("image", "label", "images", "images_u8", "labels", "mask", "failures")


@dataclasses.dataclass(frozen=True)
class Field:
    """An array that every record holds.

    Attributes:
      dtype: NumPy's name, such as "float32".
      shape: of one record's array.
      fingerprint: of the network that made it, see `vqlab.export.fingerprint`.
      made_by: that network in words, such as "autoencoder".
      bits: of each whole number, where they are packed; None where they are stored as they are.
    """

    dtype: str
    shape: tuple[int, ...]
    fingerprint: str
    made_by: str
    bits: int | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished file: its name, the records in it, and its size in bytes."""

    file: str
    num_records: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
      what: "latents", "indices" or "concepts".
      image_size: side of the stored crops in pixels.
      num_classes: of the labels.
      fields: the arrays by name.
      views: how the crops were taken.
      source: which images they were taken from.
      records_per_shard: at most; unreadable images are left out.
      shards: in order; None while they are being written.
      images: "webp" where each record holds its crop as a lossless WebP file, or "none".
      tokenizer: sizes of the tokenizer that made indices (codebook_size, num_groups, stride) or
        concepts (num_concepts, concept_dim, image_size); empty for latents.
    """

    what: str
    image_size: int
    num_classes: int
    fields: Mapping[str, Field]
    views: Mapping[str, Any]
    source: Mapping[str, Any]
    records_per_shard: int
    shards: tuple[Shard, ...] | None = None
    images: str = "webp"
    tokenizer: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.images not in IMAGES:
            raise ValueError(f"images={self.images!r} is none of {', '.join(IMAGES)}")
        if taken := sorted(set(self.fields) & set(RESERVED)):
            raise ValueError(f"records use the names {taken} themselves; call the arrays otherwise")

    @property
    def has_images(self) -> bool:
        """Whether the crops lie beside the arrays."""
        return self.images != "none"

    @property
    def num_views(self) -> int:
        """Records of each image, one after the other."""
        return self.views.get("num_views", 2 if self.views.get("flip") else 1)

    @property
    def num_records(self) -> int:
        """Over all shards."""
        return sum(shard.num_records for shard in self.shards or ())

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        content = {"format": FORMAT, "num_records": self.num_records, **dataclasses.asdict(self)}
        return json.loads(json.dumps(content))


def save_manifest(manifest: Manifest, folder: str | Path) -> None:
    """Writes `manifest.json` in one move."""
    path = Path(folder) / MANIFEST_FILE
    part = path.with_suffix(".part")
    part.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def load_manifest(folder: str | Path) -> Manifest | None:
    """The manifest of a folder, of finished records or not; None where there is none.

    Raises:
      ValueError: it is cut short or of another format.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    try:
        if content.pop("format") not in FORMATS:
            raise ValueError(f"{path} is of none of the formats {', '.join(FORMATS)}")
        del content["num_records"]
        fields = {
            name: Field(**{**field, "shape": tuple(field["shape"])})
            for name, field in content.pop("fields").items()
        }
        shards = content.pop("shards")
        shards = None if shards is None else tuple(Shard(**shard) for shard in shards)
        return Manifest(fields=fields, shards=shards, **content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of records: {error!r}") from error


def read_manifest(path: str | Path, split: str) -> Manifest:
    """The manifest of the finished records in `path/split`.

    Raises:
      ValueError: there are none, or they were never finished.
    """
    if not path:
        raise ValueError("the records have no path; set --config.data.path=DIR")
    folder = Path(path).expanduser() / split
    manifest = load_manifest(folder)
    if manifest is None:
        raise ValueError(f"no records in {folder}: {MANIFEST_FILE} is missing")
    if manifest.shards is None:
        raise ValueError(f"the records in {folder} are unfinished; give the command that made them")
    if not manifest.num_records:
        raise ValueError(f"the records in {folder} are none: {MANIFEST_FILE} counts 0")
    return manifest


def check_records(
    manifest: Manifest,
    where: str | Path,
    *,
    image_size: int,
    fingerprints: Mapping[str, str | None],
) -> None:
    """Checks that records hold what is to be trained from.

    Args:
      manifest: from `read_manifest`.
      where: the folder, for the message.
      image_size: side of the images in pixels.
      fingerprints: of the network that must have made each array, by the array's name; None if
        any will do.

    Raises:
      ValueError: another image size, an array that is missing, or one of another network.
    """
    if manifest.image_size != image_size:
        raise ValueError(
            f"records in {where} hold images of {manifest.image_size} pixels, config's are of "
            f"{image_size}"
        )
    for name, fingerprint in fingerprints.items():
        if name not in manifest.fields:
            held = ", ".join(manifest.fields)
            raise ValueError(f"records in {where} hold no {name}, only: {held}")
        made = manifest.fields[name]
        if fingerprint not in (None, made.fingerprint):
            raise ValueError(
                f"records in {where} were made by another {made.made_by}: fingerprint "
                f"{made.fingerprint}, config's is {fingerprint}"
            )
