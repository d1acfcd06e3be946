"""TensorBoard's event files, written by the caller's own thread.

tensorboardX's SummaryWriter writes in a thread of its own, which a full disk ends with a traceback;
ten events later its caller waits for that thread for ever. Here a full disk is an OSError.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar, text

from vqlab.training.disk import naming

FLUSH_AFTER = 30  # seconds; flushing waits for the disk


class EventFile:
    """A new event file in a folder, from a step on.

    Args:
      folder: where TensorBoard looks; made when absent.
      step: events of later steps in older files of the folder are not shown any more.

    Raises:
      OSError: by each method, naming the file.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        # Two files of one second must not be one.
        place = f"{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{place}"
        self._last_flush = time.monotonic()
        with naming(self._path):
            self._file = RecordWriter(str(self._path))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number a name."""
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._last_flush > FLUSH_AFTER:
            self.flush()

    def add_images(self, step: int, pngs: Mapping[str, bytes]) -> None:
        """One PNG file a name."""
        for name, png in pngs.items():
            width, height = Image.open(io.BytesIO(png)).size
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=png
            )
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._write(Event(step=step, summary=summary))
        self.flush()

    def add_text(self, step: int, name: str, markdown: str) -> None:
        """One text."""
        self._write(Event(step=step, summary=text(name, markdown)))
        self.flush()

    def flush(self) -> None:
        """Returns when all is on disk."""
        with naming(self._path):
            self._file.flush()
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Flushes and closes."""
        with naming(self._path), contextlib.closing(self._file):
            self._file.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming(self._path):
            self._file.write(event.SerializeToString())
