"""Metrics of many steps on their way from the devices to one line of the log."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# Steps whose metrics may still be on their way from the device while later ones run.
METRICS_IN_FLIGHT = 2


class Diverged(RuntimeError):
    """Too many steps in a row had a metric that is not finite.

    Attributes:
      step: the last of them.
    """

    def __init__(self, step: int, text: str):
        super().__init__(text)
        self.step = step


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Host floats by name; a vector over groups becomes `name_g0`, `name_g1`, ..."""
    flat = {}
    for name, value in metrics.items():
        value = np.asarray(value)
        if value.ndim == 0:
            flat[name] = float(value)
        else:
            flat |= {f"{name}_g{index}": float(x) for index, x in enumerate(value.ravel())}
    return flat


class MetricWindow:
    """Fetches the metrics of finished steps a little late, checks them, and averages them.

    Reading a metric waits for its step. Reading it a few steps later costs nothing, as the device
    is busy with the steps after it.

    Args:
      max_skipped: how many steps in a row may have a metric that is not finite. Such a step has
        changed nothing (`make_train_step`); it is counted, and no part of the means.

    Attributes:
      skipped_in_row: how many of the latest steps that were fetched are such.
      skipped: (step, metric's name and value) of all such since the last `means`.
    """

    def __init__(self, max_skipped: int = 0):
        self.skipped_in_row = 0
        self.skipped: list[tuple[int, str]] = []
        self._max_skipped = max_skipped
        self._pending: collections.deque = collections.deque()
        self._sums: dict[str, float] = {}
        self._count = 0

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds a dispatched step's metrics; raises Diverged for an earlier one."""
        self._pending.append((step, metrics))
        while len(self._pending) > METRICS_IN_FLIGHT:
            self._take()

    def drain(self) -> None:
        """Waits for all dispatched steps; raises Diverged for any."""
        while self._pending:
            self._take()

    def means(self) -> dict[str, float]:
        """Means since the last call, of the steps fetched, and the number `skipped`."""
        means = {name: total / self._count for name, total in self._sums.items()}
        means["skipped"] = float(len(self.skipped))
        self._sums, self._count, self.skipped = {}, 0, []
        return means

    def _take(self) -> None:
        step, metrics = self._pending.popleft()
        values = scalars(jax.device_get(metrics))
        faults = [f"{n} is {x}" for n, x in values.items() if not math.isfinite(x)]
        if faults:
            self._skip(step, faults[0])
            return
        self.skipped_in_row = 0
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def _skip(self, step: int, fault: str) -> None:
        self.skipped.append((step, fault))
        self.skipped_in_row += 1
        if self.skipped_in_row > self._max_skipped:
            raise Diverged(step, f"{fault} at step {step}, the {self.skipped_in_row}. in a row")
