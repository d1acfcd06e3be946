"""How fast a run is, and how much of its devices it uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import jax


class Speedometer:
    """Rates between two readings; evaluation and saving count for nothing.

    Args:
      batch_size: images per step over all hosts.
      flops: of one step over all devices; 0 for not known.
      peak_flops: of all devices together, per second; 0 for not known.
    """

    def __init__(self, batch_size: int, flops: float = 0.0, peak_flops: float = 0.0):
        self._batch_size, self._flops, self._peak_flops = batch_size, flops, peak_flops
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._seconds = {"waited": 0.0, "paused": 0.0}
        self._steps = 0

    @contextlib.contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - start

    def waiting(self):
        """Context in which the loop waits for a batch."""
        self._steps += 1
        return self._timed("waited")

    def paused(self):
        """Context of evaluation and saving."""
        return self._timed("paused")

    def rates(self) -> dict[str, float]:
        """`images_per_second`, `step_seconds`, `data_wait_share` since the last reading.

        Also `mfu`, the model FLOPs utilisation, where both FLOPs are known, and
        `device_memory_gib`, the peak of the first local device so far, where it says so.
        """
        elapsed = max(time.perf_counter() - self._start - self._seconds["paused"], 1e-9)
        steps_per_second = self._steps / elapsed
        rates = {
            "images_per_second": steps_per_second * self._batch_size,
            "step_seconds": elapsed / max(self._steps, 1),
            "data_wait_share": min(self._seconds["waited"] / elapsed, 1.0),
        }
        if self._flops and self._peak_flops:
            rates["mfu"] = steps_per_second * self._flops / self._peak_flops
        statistics = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics:
            rates["device_memory_gib"] = statistics["peak_bytes_in_use"] / 2**30
        self._reset()
        return rates
