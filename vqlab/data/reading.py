"""Reads batches in threads or worker processes, in the same order, whatever becomes of these."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable

import grain
from absl import flags

from vqlab.data.examples import BatchRows
from vqlab.data.worker_batches import WorkerBatches

log = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # through which workers hand over their batches


class WorkerDied(OSError):
    """A worker process was ended from outside; nothing is wrong with the data."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How batches are read; changes the speed, never the content.

    Attributes:
      num_workers: worker processes; 0 reads in threads of this one.
      num_threads: batches read at the same time by each worker (or by this process).
      prefetch: batches held ready by each of them.
      on_worker_death: told why in a few words when a worker process has died; what is left is read
        in threads then, for the few steps until all have stopped. None: WorkerDied is raised.
    """

    num_workers: int = 0
    num_threads: int = 2
    prefetch: int = 2
    on_worker_death: Callable[[str], None] | None = None

    def __post_init__(self):
        for name, least in (("num_workers", 0), ("num_threads", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")

    def read(self, rows: BatchRows, num_batches: int) -> Batches:
        """An iterator over rows(0), rows(1), ... in this order."""
        return Batches(self, rows, num_batches)

    def start(self, rows: BatchRows, first: int, num_batches: int):
        """An iterator over rows(first) ... rows(num_batches - 1)."""
        ready = max(self.prefetch, self.num_threads)
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=ready)
        numbers = grain.MapDataset.range(first, num_batches)
        batches = numbers.map(rows).to_iter_dataset(options)
        return self._start_workers(batches) if self.num_workers else iter(batches)

    def _start_workers(self, batches):
        """The iterator, its worker processes under way."""
        # grain asks an absl flag before it starts workers; outside of absl.app (a notebook,
        # a test) nobody has parsed the flags.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(
            num_workers=self.num_workers, per_worker_buffer_size=self.prefetch
        )
        batches = iter(batches.mp_prefetch(options, worker_init_fn=_end_with_parent))
        batches.get_state()  # makes the workers' queues; only then can the workers be started here
        with _stop_signals_blocked():
            batches.start_prefetch()
        return WorkerBatches(batches)


class Batches:
    """The iterator that `Reading.read` gives; `close` ends its worker processes."""

    def __init__(self, reading: Reading, rows: BatchRows, num_batches: int):
        self._reading, self._rows, self._num_batches = reading, rows, num_batches
        self._next = 0
        self._batches = reading.start(rows, 0, num_batches)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict:
        """The next batch.

        Raises:
          WorkerDied: a worker process was killed, and `on_worker_death` is None.
        """
        try:
            batch = next(self._batches)
        except RuntimeError as error:  # grain's for this, and others
            if (death := describe_death(str(error))) is None:
                raise
            self._without_workers(death)
            batch = next(self._batches)
        self._next += 1
        return batch

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._batches.close()

    def _without_workers(self, death: str) -> None:
        self.close()
        if self._reading.on_worker_death is None:
            raise WorkerDied(death)
        log.warning("%s; reading on in threads", death)
        self._reading.on_worker_death("a loader worker has died")
        self._reading = dataclasses.replace(self._reading, num_workers=0)
        self._batches = self._reading.start(self._rows, self._next, self._num_batches)


def describe_death(message: str) -> str | None:
    """One line on a worker whose end grain's `message` reports; None where it reports none."""
    ended = re.match(r"Worker process was terminated unexpectedly with exit code (-?\d+)", message)
    if ended is None:
        return None
    code = int(ended[1])
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return (
        f"a loader worker was ended by {how}: too little memory (SIGKILL) or a full "
        f"{SHARED_MEMORY} (SIGBUS; {_free_space(SHARED_MEMORY)}) do that; give more of it, or a "
        "smaller loader.num_workers"
    )


def _free_space(path: str) -> str:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return str(error.strerror)
    free, total = (blocks * found.f_frsize >> 20 for blocks in (found.f_bavail, found.f_blocks))
    return f"{free} of {total} MiB free"


@contextlib.contextmanager
def _stop_signals_blocked():
    """Processes started inside, from their first moment on, never see a signal to stop.

    They inherit the mask, also through the threads in which grain starts them. Ctrl-C in
    a terminal, its closing and SLURM's SIGTERM reach every process of a run. What they mean is the
    train loop's business, which still needs batches then; it ends its workers itself.
    """
    stop = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(*_):
    """In a worker: ends it when its parent was killed, for which it would wait for ever."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
