"""Sets of images that any program made, of any sizes: folders, and ADM's batches in .npz files.

Nothing is resized unless a crop is asked for. What is not plain RGB of 8 bits is said in a line.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vqlab.data.decode import PLAIN, UNREADABLE, decode_rgb
from vqlab.data.listing import describe_skipped, list_images

_NUM_THREADS = 16
_SHOWN = 3  # names in a note
SAMPLES = "arr_0"  # of ADM's sample batches

# RGB image -> uint8 [size, size, 3], with its `size`: one of `transforms.CROPS`.
Crop = Callable[[Image.Image], np.ndarray]


class Header(NamedTuple):
    """What the beginning of a file says: sides in pixels, and what is not plain RGB of 8 bits.

    `kind` is "" for plain, "alpha", "16 bits", or why the file cannot be read.
    """

    height: int
    width: int
    kind: str = ""


class ImageSet:
    """Images by number.

    Attributes:
      place: where they lie.
      names: of each, without the extension, as in pairs; numbers where they have none.
      sizes: (height, width) of each; (0, 0) of one that cannot be read.
      notes: lines on what a user has to know of them.
    """

    place: str
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> np.ndarray:
        """uint8 [H, W, 3]; raises one of `decode.UNREADABLE` for a damaged one."""
        raise NotImplementedError


class FolderSet(ImageSet):
    """The images below a folder, sorted by name; their headers are read at once.

    Args:
      path: the folder.
      crop: what to make of each; None for whole images.

    Raises:
      ValueError: no such folder, or no images in it.
    """

    def __init__(self, path: str | Path, crop: Crop | None = None):
        root = Path(path).expanduser()
        if not root.is_dir():
            raise ValueError(f"image folder {str(path)!r} does not exist or is no folder")
        files, skipped = list_images(root)
        if not files:
            found = describe_skipped(skipped) or "no file"
            raise ValueError(f"no images in {root}: found {found}")
        self.place, self._crop = str(root), crop
        self._files = [os.path.join(root, name) for name in files]
        self.names = [os.path.splitext(name)[0] for name in files]
        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
            headers = list(pool.map(_header, self._files))
        if all(not header.height for header in headers):
            raise ValueError(f"no image of {len(files)} in {root} can be read: {headers[0].kind}")
        self.sizes = [(h.height, h.width) for h in headers]
        self.notes = tuple(self._notes(headers))
        if crop is not None:
            self.sizes = [(crop.size, crop.size) if all(size) else size for size in self.sizes]

    def read(self, number: int) -> np.ndarray:
        """See `ImageSet`."""
        image = decode_rgb(Path(self._files[number]).read_bytes(), PLAIN)
        return np.asarray(image if self._crop is None else self._crop(image))

    def _notes(self, headers: Sequence[Header]) -> list[str]:
        kinds = {
            "alpha": "have alpha, which is left out",
            "16 bits": "have 16 bits a channel, of which the upper 8 are taken",
        }
        found = [([h.kind == kind for h in headers], text) for kind, text in kinds.items()]
        if self._crop is not None:
            size = self._crop.size
            small = [0 < min(h.height, h.width) < size for h in headers]
            found.append((small, f"are smaller than the crop of {size} pixels, and are enlarged"))
        notes = []
        for chosen, text in found:
            if names := [name for name, is_one in zip(self.names, chosen, strict=True) if is_one]:
                shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
                notes.append(f"{len(names)} of {len(headers)} images {text}: {shown}")
        return notes


class ArraySet(ImageSet):
    """The images of a sample batch, `arr_0` uint8 [N, H, W, 3] of a .npz file, read one by one.

    Args:
      path: the file.
      crop: as of `FolderSet`.

    Raises:
      ValueError: damaged, or without such an array.
    """

    def __init__(self, path: str | Path, crop: Crop | None = None):
        self.place, self._crop, self._lock = str(path), crop, threading.Lock()
        try:
            self._archive = zipfile.ZipFile(Path(path).expanduser())
            self._stream = self._archive.open(f"{SAMPLES}.npy")
            version = np.lib.format.read_magic(self._stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self._shape, is_fortran, dtype = read(self._stream)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no images {SAMPLES}: {_one_line(error)}") from error
        if dtype != np.uint8 or len(self._shape) != 4 or self._shape[3] != 3 or is_fortran:
            raise ValueError(f"{path}: {SAMPLES} is {dtype} {self._shape}, not uint8 [N, H, W, 3]")
        if not self._shape[0]:
            raise ValueError(f"{path} holds no images: {SAMPLES} is {self._shape}")
        self._start = self._stream.tell()
        self.names = [str(number) for number in range(self._shape[0])]
        size = (crop.size, crop.size) if crop else self._shape[1:3]
        self.sizes = [tuple(size)] * self._shape[0]

    def read(self, number: int) -> np.ndarray:
        """See `ImageSet`."""
        size = int(np.prod(self._shape[1:]))
        with self._lock:
            self._stream.seek(self._start + number * size)
            content = self._stream.read(size)
        pixels = np.frombuffer(content, np.uint8).reshape(self._shape[1:])
        return pixels if self._crop is None else self._crop(Image.fromarray(pixels))


def open_images(path: str | Path, crop: Crop | None = None) -> ImageSet:
    """The set of a folder or of a .npz file."""
    return (ArraySet if str(path).endswith(".npz") else FolderSet)(path, crop)


def holds(path: str | Path, name: str) -> bool:
    """Whether a path is that of a .npz file with an array of this name, such as `SAMPLES`."""
    try:
        with zipfile.ZipFile(Path(path).expanduser()) as archive:
            return f"{name}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def pairs_by_name(images: ImageSet, reference: ImageSet) -> list[tuple[int, int]]:
    """(number, number) of the images of both sets that have one name.

    Raises:
      ValueError: names of one side only, some of which are listed, or pairs of unequal sizes.
    """
    places = {name: number for number, name in enumerate(reference.names)}
    lone = {
        images.place: [name for name in images.names if name not in places],
        reference.place: sorted(places.keys() - set(images.names)),
    }
    if any(lone.values()):
        texts = [
            f"only in {place}: {len(names)} ({', '.join(names[:_SHOWN])}"
            f"{', ...' if len(names) > _SHOWN else ''})"
            for place, names in lone.items()
            if names
        ]
        raise ValueError(f"psnr, ssim and lpips need images of the same names; {'; '.join(texts)}")
    pairs = [(number, places[name]) for number, name in enumerate(images.names)]
    for a, b in pairs:
        sizes = images.sizes[a], reference.sizes[b]
        if all(map(all, sizes)) and sizes[0] != sizes[1]:
            (h, w), (height, width) = sizes
            raise ValueError(
                f"{images.names[a]} is {w}x{h} in {images.place} and {width}x{height} in "
                f"{reference.place}: give --image_size to crop both"
            )
    return pairs


def _header(path: str) -> Header:
    try:
        with Image.open(path) as image:
            return Header(image.height, image.width, _kind(image))
    except UNREADABLE as error:
        return Header(0, 0, f"{type(error).__name__}: {_one_line(error)}")


def _kind(image: Image.Image) -> str:
    if image.has_transparency_data:
        return "alpha"
    modes = [image.mode, *(str(tile[3]) for tile in image.tile if len(tile) > 3)]
    return "16 bits" if any(";16" in mode for mode in modes) else ""


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
