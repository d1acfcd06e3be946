"""Batches from worker processes, whose shared memory is given back when no more are wanted."""

from __future__ import annotations

import gc
from typing import Any


class WorkerBatches:
    """A grain iterator whose `close` also frees what its workers lent.

    At the end of the data grain raises in each worker's place an exception with a traceback of its
    own making. Both hold each other, and with them the worker's last batch, until Python looks for
    such cycles. A process that ends before is told of leaked shared_memory objects.
    """

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def close(self) -> None:
        """Ends the workers; no batch may be in use any more."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None  # its queues hold the exceptions
            gc.collect()
