"""What a run says while it trains: metrics.jsonl, TensorBoard events, a progress bar.

Only process 0 writes; elsewhere the same calls do nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vqlab.training.disk import naming, write_text

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"

# Metrics beside the bar, those that a run has of them, and their short names there.
_SHOWN = {
    "loss/tokenizer": "loss",
    "loss/generator": "loss",
    "l1": "l1",
    "l2": "l2",
    "images_per_second": "img/s",
    "mfu": "mfu",
    "skipped": "skipped",
}
# Shown only when there is something to say.
_SHOWN_ABOVE_ZERO = ("skipped",)


class MetricWriter:
    """Writes scalars as JSON lines and, with pictures and texts, as TensorBoard events.

    metrics.jsonl has one object a call, {"step": int, name: float, ...}; NaN and infinity, which
    JSON cannot express, become null. Not one of clu's metric writers: their import needs
    TensorFlow, and they cannot be rewound.

    Args:
      workdir: directory of the run; made when absent.
      step: the step a run resumes from. Lines and events of later steps are dropped, since the
        run is about to write them again.
      tensorboard: whether to write events beside the JSON lines.

    Raises:
      OSError: by each method that writes, naming the file.
    """

    def __init__(self, workdir: str | Path, *, step: int = 0, tensorboard: bool = True):
        self._file = self._events = None
        self._workdir, self._tensorboard = Path(workdir), tensorboard
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Drops what was written after `step`, where the run goes on from."""
        if jax.process_index() != 0:
            return
        self.close()
        path = self._workdir / METRICS_FILE
        self._workdir.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(path, step)
        self._file = open(path, "a", encoding="utf-8")
        if self._tensorboard:
            # Imported here because evaluation and export work without it.
            from vqlab.training.tensorboard import EventFile

            self._events = EventFile(self._workdir / TENSORBOARD_DIR, step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one number a name: Python floats, or NumPy or JAX arrays of one element."""
        if self._file is None:
            return
        values = {name: np.asarray(value).astype(float).item() for name, value in scalars.items()}
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        # Flushed at once: a killed run keeps what it wrote.
        with naming(self._workdir / METRICS_FILE):
            print(json.dumps({"step": int(step)} | line), file=self._file, flush=True)
        if self._events is not None:
            self._events.add_scalars(int(step), values)

    def write_images(self, step: int, pngs: Mapping[str, bytes]) -> None:
        """Shows one PNG file a name in TensorBoard."""
        if self._events is not None:
            self._events.add_images(int(step), pngs)

    def write_text(self, step: int, name: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        if self._events is not None:
            self._events.add_text(int(step), name, markdown)

    def close(self) -> None:
        """Flushes and closes both files; further writes do nothing.

        Raises nothing: what a full disk did not take was an error of its own, and each line of
        metrics.jsonl is on disk before its call returns.
        """
        for file in (self._events, self._file):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._events = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _drop_lines_after(path: Path, step: int) -> None:
    """Keeps the lines up to `step`, replacing the file in one move; a line cut short goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            continue
    write_text(path, "".join(kept))


class ProgressBar:
    """Bar on stderr with the time left and a few metrics; silent but on process 0."""

    def __init__(
        self, total: int, *, initial: int = 0, description: str = "train", unit: str = "step"
    ):
        # In a log file, where a bar cannot be redrawn, a line every half a minute is enough.
        interval = 0.2 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=description,
            unit=unit,
            mininterval=interval,
            maxinterval=max(interval, 10.0),
            dynamic_ncols=True,
            disable=jax.process_index() != 0,
        )

    def update(self, steps: int = 1) -> None:
        """Advances the bar."""
        self._bar.update(steps)

    def show(self, metrics: Mapping[str, float]) -> None:
        """Puts loss, images per second and such, as far as `metrics` has them, beside the bar."""
        shown = {
            label: f"{metrics[name]:.4g}"
            for name, label in _SHOWN.items()
            if name in metrics and (metrics[name] > 0 or name not in _SHOWN_ABOVE_ZERO)
        }
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Draws the final state."""
        self._bar.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def show_progress(words: str, batches: Iterable[Mapping], num_images: int) -> Iterator[Mapping]:
    """Passes batches of images through, beside a bar with images per second and the time left.

    A batch's "mask" has the rows of this process, of which each has as many.
    """
    shown = 0
    with ProgressBar(num_images, description=words, unit="image") as bar:
        for batch in batches:
            yield batch
            more = min(len(batch["mask"]) * jax.process_count(), num_images - shown)
            shown += more
            bar.update(more)
