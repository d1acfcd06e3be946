"""The train loop: every method, every machine.

It feeds batches to the step and does four things now and then: log, evaluate, save, stop. All it
knows of the method is the names of the metrics.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from vqlab.training.checkpoint import Checkpointer
from vqlab.training.step import TrainState
from vqlab.training.telemetry import MetricWriter, ProgressBar

# Steps whose metrics may still be on their way from the device while later ones run.
METRICS_IN_FLIGHT = 2


class NonFiniteError(RuntimeError):
    """A metric became NaN or infinite; the newest checkpoint is from before."""


class Batches(Protocol):
    """An endless iterator of host batches whose position is a JSON value."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Intervals:
    """In steps. 0 turns one off; the end of a run always evaluates and saves."""

    log: int
    evaluate: int
    checkpoint: int


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


def require_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises NonFiniteError with the metric's name and the step."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{name} is {value} at step {step}")


class MetricWindow:
    """Fetches the metrics of finished steps a little late, checks them, and averages them.

    Reading a metric waits for its step. Reading it a few steps later costs nothing, as the device
    is busy with the steps after it.
    """

    def __init__(self):
        self._pending: collections.deque = collections.deque()
        self._sums: dict[str, float] = {}
        self._count = 0

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds a dispatched step's metrics; raises NonFiniteError for an earlier one."""
        self._pending.append((step, metrics))
        while len(self._pending) > METRICS_IN_FLIGHT:
            self._take()

    def drain(self) -> None:
        """Waits for all dispatched steps; raises NonFiniteError for any."""
        while self._pending:
            self._take()

    def means(self) -> dict[str, float]:
        """Means since the last call, of the steps fetched."""
        means = {name: total / max(self._count, 1) for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def _take(self) -> None:
        step, metrics = self._pending.popleft()
        values = scalars(jax.device_get(metrics))
        require_finite(step, values)
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1


class StopSignal:
    """Turns SIGTERM and SIGINT into a request to stop at the next step."""

    def __init__(self):
        self._received: int | None = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._receive)

    def __bool__(self) -> bool:
        return self._received is not None

    def _receive(self, number, frame) -> None:
        del frame
        if self._received is not None:  # asked twice: do not wait for the step
            raise KeyboardInterrupt
        self._received = number


@dataclasses.dataclass
class Run:
    """The parts of a run that the loop drives; see `vqlab.build`.

    Attributes:
      state: the state to start from.
      train_step: jitted `(state, frozen, batch) -> (state, metrics)`.
      frozen: never-trained networks' parameters.
      batches: host batches of this process.
      to_device: host batch -> global arrays.
      evaluate: `(state) -> {name: value}`, or None.
      batch_size: images per step over all hosts.
      evaluation: the newest one's metrics, once there is one.
    """

    state: TrainState
    train_step: Callable
    frozen: Any
    batches: Batches
    to_device: Callable[[dict], dict]
    evaluate: Callable[[TrainState], dict[str, float]] | None
    checkpointer: Checkpointer
    writer: MetricWriter
    batch_size: int
    evaluation: dict[str, float] | None = None

    def close(self) -> None:
        """Ends worker processes and waits for what is still being written."""
        self.batches.close()
        self.writer.close()
        self.checkpointer.close()


def train(run: Run, num_steps: int, intervals: Intervals) -> tuple[TrainState, bool]:
    """Trains up to `num_steps`; returns the state and whether the run is complete.

    Raises:
      NonFiniteError: naming the metric and the step; no checkpoint is written after it.
    """
    stop, window, speed = StopSignal(), MetricWindow(), Speedometer(run.batch_size)
    step = int(run.state.step)
    with ProgressBar(total=num_steps, initial=step) as progress:
        while step < num_steps and not stop:
            with speed.waiting():
                batch = run.to_device(next(run.batches))
            run.state, metrics = run.train_step(run.state, run.frozen, batch)
            step += 1
            window.push(step, metrics)
            progress.update(1)
            last = step == num_steps
            if last or _due(step, intervals.log):
                window.drain()
                values = window.means()
                progress.show(values)
                rates = speed.rates()
                run.writer.write_scalars(
                    step, {f"train/{name}": value for name, value in (values | rates).items()}
                )
            evaluation = None
            if run.evaluate is not None and (last or _due(step, intervals.evaluate)):
                window.drain()
                with speed.paused():
                    evaluation = run.evaluation = run.evaluate(run.state)
                run.writer.write_scalars(
                    step, {f"eval/{name}": value for name, value in evaluation.items()}
                )
            if last or stop or _due(step, intervals.checkpoint):
                window.drain()
                with speed.paused():
                    run.checkpointer.save(step, run.state, run.batches.get_state(), evaluation)
        if stop and step < num_steps:
            window.drain()
            run.checkpointer.save(step, run.state, run.batches.get_state())
            logging.warning("stopped by a signal; step %d is saved", step)
    run.checkpointer.wait()
    return run.state, step >= num_steps


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class Speedometer:
    """Images per second and the share of time spent waiting for data, between two readings."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited, self._paused, self._batches = time.perf_counter(), 0.0, 0.0, 0

    def waiting(self):
        """Context in which the loop waits for a batch."""
        self._batches += 1
        return _Timer(self, "_waited")

    def paused(self):
        """Context of evaluation and saving, which count for nothing here."""
        return _Timer(self, "_paused")

    def rates(self) -> dict[str, float]:
        """The two numbers since the last reading."""
        elapsed = max(time.perf_counter() - self._start - self._paused, 1e-9)
        rates = {
            "images_per_second": self._batches * self._batch_size / elapsed,
            "data_wait_share": min(self._waited / elapsed, 1.0),
        }
        self._reset()
        return rates


class _Timer:
    def __init__(self, owner: Speedometer, field: str):
        self._owner, self._field = owner, field

    def __enter__(self):
        self._start = time.perf_counter()

    def __exit__(self, *exception):
        elapsed = time.perf_counter() - self._start
        setattr(self._owner, self._field, getattr(self._owner, self._field) + elapsed)
