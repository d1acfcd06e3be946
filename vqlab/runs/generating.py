"""Images of classes in numbers: a folder of PNGs, a picture and ADM's sample batch.

OUTPUT/settings.json          what was drawn by which generator; another job is refused
OUTPUT/0007/00012.png         image 12 of class 7
OUTPUT/samples.npz            arr_0 uint8 [N, H, W, 3] and arr_1 labels [N], class after class
OUTPUT/grid.png               the first images of the first classes
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from vqlab.evaluation.image_metrics import to_uint8
from vqlab.export.fingerprint import fingerprint
from vqlab.export.package import flatten
from vqlab.generation import LoadedGenerator
from vqlab.models.generator import NUMBERS_PER_CLASS, check_labels, draw_images
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.ops.counts import MAX_SEED, check_count, check_seed
from vqlab.training import sharding
from vqlab.training.disk import naming, write_text
from vqlab.training.telemetry import ProgressBar

FORMAT = "vqlab-samples-1"
SETTINGS_FILE, BATCH_FILE, GRID_FILE = "settings.json", "samples.npz", "grid.png"
_END = b"IEND\xaeB`\x82"  # of a whole PNG
_ROWS, _COLUMNS = 8, 8  # of the picture, at most
_GAP = 2  # pixels between its images
_WRITERS = 4  # threads that compress


class Item(NamedTuple):
    """An image to draw: number `number` of class `label`."""

    label: int
    number: int

    @property
    def file(self) -> str:
        """Below the output folder."""
        return f"{self.label:04d}/{self.number:05d}.png"

    @property
    def seed_number(self) -> int:
        """What it is drawn by, beside the seed."""
        return self.label * NUMBERS_PER_CLASS + self.number


class Job:
    """All images of a folder. `begin`, then `write`, on every process; each writes its share.

    Args:
      loaded: the generator.
      sampling: its settings.
      classes: which, () for all.
      num_per_class: images of each.
      seed: of all.
      output: a new or empty folder, or one of the same job, which goes on.
      batch_size: images that each device draws at once, always the same ones together: so they are
        the same to the last bit on any number of devices, and where a job goes on.
      devices: of this process; None for all.

    Raises:
      ValueError: a class that there is not, or a number out of range.
    """

    def __init__(
        self,
        loaded: LoadedGenerator,
        sampling: GeneratorSampling,
        *,
        classes: Sequence[int],
        num_per_class: int,
        seed: int,
        output: str | pathlib.Path,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ):
        known = range(max(loaded.num_classes, 1))
        classes = check_labels(list(classes) or known, loaded.num_classes).tolist()
        if twice := [label for label, n in collections.Counter(classes).items() if n > 1]:
            raise ValueError(f"class {twice[0]} is given twice")
        check_count("a class", max(classes), 0, MAX_SEED // NUMBERS_PER_CLASS - 1)
        count = check_count("num_per_class", num_per_class, 1, NUMBERS_PER_CLASS)
        check_count("batch_size", batch_size, 1)
        self.items = [Item(label, number) for label in classes for number in range(count)]
        self.output = pathlib.Path(output).expanduser()
        self._loaded, self._sampling, self._seed = loaded, sampling, check_seed(seed)
        devices = jax.local_devices() if devices is None else devices
        self._mesh = sharding.make_mesh(-1, 1, devices=devices)
        starts = range(0, len(self.items), batch_size)
        self._chunks = [self.items[start : start + batch_size] for start in starts]
        self._settings = {
            "format": FORMAT,
            "generator": fingerprint(loaded.node, flatten(jax.device_get(loaded.weights))),
            "classes": classes,
            "num_per_class": count,
            "seed": self._seed,
            "sampling": sampling.settings(),
        }

    def begin(self) -> None:
        """Makes the folder.

        Raises:
          ValueError: it holds other files, or images of another job.
        """
        if jax.process_index() == 0:
            self._claim()
        _wait_for_all("the job begins")

    def write(self) -> None:
        """Draws what is missing, and, on process 0, puts all together."""
        own = self._chunks[jax.process_index() :: jax.process_count()]
        missing = {item for item in self.items if not _is_whole(self.output / item.file)}
        chunks = [chunk for chunk in own if missing.intersection(chunk)]
        for label in {item.label for chunk in chunks for item in chunk}:
            (self.output / f"{label:04d}").mkdir(exist_ok=True)
        counts = [sum(map(len, some)) for some in (own, chunks)]
        with (
            ProgressBar(
                counts[0], initial=counts[0] - counts[1], description="generate", unit="image"
            ) as bar,
            concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool,
            jax.set_mesh(self._mesh),
        ):
            for items, images in self._drawn(chunks):
                new = [pair for pair in zip(items, images, strict=True) if pair[0] in missing]
                list(pool.map(self._save, *zip(*new, strict=True)) if new else ())
                bar.update(len(items))
        _wait_for_all("the job ends")
        if jax.process_index() == 0:
            self._put_together()

    def _claim(self) -> None:
        path = self.output / SETTINGS_FILE
        wanted = json.loads(json.dumps(self._settings))
        if path.exists():
            try:
                there = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is no valid JSON: {error}") from error
            names = [n for n in {**wanted, **there} if there.get(n) != wanted.get(n)]
            if names:
                facts = "; ".join(f"{n} was {there.get(n)}, is {wanted.get(n)}" for n in names)
                raise ValueError(f"{self.output} holds images of another job ({facts[:300]})")
            return
        self.output.mkdir(parents=True, exist_ok=True)
        if any(not file.name.startswith(".") for file in self.output.iterdir()):
            raise ValueError(f"{self.output} holds other files; name a new folder")
        write_text(path, json.dumps(wanted, indent=2) + "\n")

    def _drawn(self, chunks: list[list[Item]]) -> Iterator[tuple[list[Item], np.ndarray]]:
        """Items with their images uint8 [n, H, W, 3], while the devices are at the next ones."""
        split, whole = sharding.batch_sharding(self._mesh), sharding.replicated(self._mesh)
        weights = jax.device_put(self._loaded.weights, whole)

        @functools.partial(jax.jit, out_shardings=split)
        def draw(weights, labels, seed, numbers, sampling):
            generator = self._loaded.generator
            return to_uint8(draw_images(generator, weights, labels, seed, numbers, sampling)[1])

        pending = collections.deque()
        rows = self._mesh.size * len(self._chunks[0])
        for start in range(0, len(chunks), self._mesh.size):
            # Only the last chunk may be shorter, and stands at the end.
            items = [item for chunk in chunks[start : start + self._mesh.size] for item in chunk]
            full = items + [items[-1]] * (rows - len(items))
            labels = jax.device_put(np.array([item.label for item in full], np.int32), split)
            numbers = np.array([item.seed_number for item in full], np.uint32)
            numbers, seed = jax.device_put(numbers, split), np.uint32(self._seed)
            pending.append((items, draw(weights, labels, seed, numbers, self._sampling)))
            if len(pending) > 1:
                yield _on_host(*pending.popleft())
        while pending:
            yield _on_host(*pending.popleft())

    def _save(self, item: Item, image: np.ndarray) -> None:
        """In one move, so that a file is whole or not there."""
        path = self.output / item.file
        part = path.with_suffix(".part")
        with naming(path):
            Image.fromarray(image).save(part, "PNG")
            os.replace(part, path)

    def _put_together(self) -> None:
        grid = _grid(self.output, self.items)
        grid.save(self.output / GRID_FILE, "PNG")
        path = self.output / BATCH_FILE
        part = path.with_suffix(".part")
        with naming(path):
            _write_batch(part, self.output, self.items)
            os.replace(part, path)


def _on_host(items: list[Item], images: jax.Array) -> tuple[list[Item], np.ndarray]:
    return items, np.asarray(images)[: len(items)]


def _is_whole(path: pathlib.Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:  # none there, or shorter
        return False


def _read(folder: pathlib.Path, item: Item) -> np.ndarray:
    with Image.open(folder / item.file) as image:
        return np.asarray(image)


def _write_batch(path: pathlib.Path, folder: pathlib.Path, items: Sequence[Item]) -> None:
    """ADM's sample batch, one image after the other: all at once may not fit the memory."""
    shape = (len(items), *_read(folder, items[0]).shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for item in items:
                file.write(_read(folder, item).tobytes())
        labels = io.BytesIO()
        np.save(labels, np.array([item.label for item in items], np.int64))
        archive.writestr("arr_1.npy", labels.getvalue())


def _grid(folder: pathlib.Path, items: Sequence[Item]) -> Image.Image:
    """The first images of the first classes, a row for each."""
    labels = list(dict.fromkeys(item.label for item in items))[:_ROWS]
    rows = [[i for i in items if i.label == label][:_COLUMNS] for label in labels]
    height, width, _ = _read(folder, items[0]).shape
    size = (len(rows[0]) * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP)
    canvas = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, item in enumerate(row):
            tile = Image.fromarray(_read(folder, item))
            canvas.paste(tile, (x * (width + _GAP), y * (height + _GAP)))
    return canvas


def parse_classes(text: str) -> list[int]:
    """ "0,7,10-12" -> [0, 7, 10, 11, 12]; "" -> [].

    Raises:
      ValueError: no such list.
    """
    classes: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or (dash and not last.strip().isdigit()):
            raise ValueError(f"classes={text!r} must be numbers, such as 0,7 or 0-9")
        classes += range(int(first), int(last if dash else first) + 1)
    return classes


def _wait_for_all(where: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)
