"""The train loop: every method, every machine.

It feeds batches to the step and does a few things now and then: log, evaluate, save, stop, go back.
All it knows of the method is the names of the metrics.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from vqlab.training.checkpoint import Checkpointer
from vqlab.training.events import EventLog
from vqlab.training.guards import Guards
from vqlab.training.profiling import Profiler
from vqlab.training.speed import Speedometer
from vqlab.training.step import TrainState
from vqlab.training.stopping import StopRequested, StopSignal
from vqlab.training.telemetry import MetricWriter, ProgressBar
from vqlab.training.window import Diverged, MetricWindow

log = logging.getLogger("vqlab")


class DivergedForGood(RuntimeError):
    """The run went back as often as it may, and still its metrics became NaN or infinite."""


class Batches(Protocol):
    """An endless iterator of host batches whose position is a JSON value.

    Attributes:
      num_reshuffles: how often the order was changed.
    """

    num_reshuffles: int

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict: ...

    def set_state(self, state: dict, *, reshuffle: bool = False) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Intervals:
    """In steps. 0 turns one off; the end of a run always saves and evaluates.

    Before an evaluation a checkpoint is written, whether or not one is due.
    """

    log: int
    evaluate: int
    checkpoint: int


@dataclasses.dataclass
class Run:
    """The parts of a run that the loop drives; see `vqlab.runs.build`.

    Attributes:
      state: the state to start from.
      train_step: jitted `(state, frozen, batch) -> (state, metrics)`.
      frozen: never-trained networks' parameters.
      batches: host batches of this process.
      to_device: host batch -> global arrays.
      evaluate: `(state) -> {name: value}`, or None. Raises StopRequested where `stop` says so. A
        checkpoint of its step is on disk before it is called.
      restore: the state and what `beside_state` gave, of the newest checkpoint or of the beginning.
      stop: asked once a step.
      evaluation: the newest one's metrics, once there is one.
      is_evaluation_due: whether the checkpoint that the run starts from lacks its evaluation.
      description: in front of the progress bar.
    """

    state: TrainState
    train_step: Callable
    frozen: Any
    batches: Batches
    to_device: Callable[[dict], dict]
    evaluate: Callable[[TrainState], dict[str, float]] | None
    restore: Callable[[], tuple[TrainState, dict]]
    checkpointer: Checkpointer
    writer: MetricWriter
    events: EventLog
    stop: StopSignal
    speed: Speedometer
    profiler: Profiler
    evaluation: dict[str, float] | None = None
    is_evaluation_due: bool = False
    description: str = "train"

    def close(self) -> None:
        """Ends worker processes and waits for what is still being written."""
        self.profiler.close()
        self.batches.close()
        self.checkpointer.close()
        self.writer.close()
        self.stop.close()  # last: until here a signal waits for what is being written


def beside_state(batches: Batches, is_evaluation_due: bool = False) -> dict[str, Any]:
    """What a checkpoint holds beside the state, in JSON types."""
    return {"data": batches.get_state(), "is_evaluation_due": is_evaluation_due}


def lacks_evaluation(checkpointer: Checkpointer, step: int, beside: dict[str, Any]) -> bool:
    """Whether the checkpoint of `step` was to be evaluated, and was not."""
    return beside["is_evaluation_due"] and not checkpointer.is_measured(step)


def train(
    run: Run, num_steps: int, intervals: Intervals, guards: Guards | None = None
) -> tuple[TrainState, bool]:
    """Trains up to `num_steps`; returns the state and whether the run is complete.

    Raises:
      DivergedForGood: naming the metric and the step; the newest checkpoint is from before.
      CheckpointError: a checkpoint cannot be written; those before it stay as they are.
    """
    guards = guards or Guards()
    while True:
        try:
            is_complete = _Advance(run, num_steps, intervals, guards).to_the_end()
            run.checkpointer.wait()
            return run.state, is_complete
        except Diverged as error:
            _go_back(run, error, guards)


def _go_back(run: Run, error: Diverged, guards: Guards) -> None:
    """Puts the run where its newest checkpoint is, with another order of what follows."""
    if run.batches.num_reshuffles >= guards.max_rollbacks:
        run.events.write(error.step, "diverged", str(error))
        raise DivergedForGood(str(error)) from error
    run.checkpointer.wait()
    run.state, beside = run.restore()
    run.batches.set_state(beside["data"], reshuffle=True)
    step = int(run.state.step)
    run.is_evaluation_due = lacks_evaluation(run.checkpointer, step, beside)
    run.writer.rewind(step)
    text = f"{error}; back to step {step}, in data order {run.batches.num_reshuffles}"
    run.events.write(error.step, "rollback", text)


class _Advance:
    """One attempt to train from where the run stands up to `num_steps`."""

    def __init__(self, run: Run, num_steps: int, intervals: Intervals, guards: Guards):
        self._run, self._num_steps, self._intervals = run, num_steps, intervals
        self._guards = guards
        self._window = MetricWindow(guards.max_skipped)
        self._step = int(run.state.step)
        self._alarms: set[str] = set()

    def to_the_end(self) -> bool:
        """Whether `num_steps` are reached and evaluated; raises Diverged."""
        run = self._run
        run.speed.rates()  # from here on
        bar = ProgressBar(self._num_steps, initial=self._step, description=run.description)
        with bar as progress:
            try:
                if run.is_evaluation_due:
                    self._evaluate()
                while self._step < self._num_steps and not run.stop.agreed():
                    self._advance()
                    progress.update(1)
                    if self._is_due(self._intervals.log):
                        progress.show(self._log())
                    run.is_evaluation_due = self._is_evaluation_due()
                    if run.is_evaluation_due or self._is_due(self._intervals.checkpoint):
                        self._save()
                    if run.is_evaluation_due:
                        self._evaluate()
            except StopRequested:
                pass  # between the batches of an evaluation, which is due once more then
            is_complete = self._step >= self._num_steps and not run.is_evaluation_due
            if not is_complete:
                self._save(always=True)
                reason = run.stop.reason
                run.events.write(self._step, "stopped", f"{reason}; step {self._step} is saved")
        return is_complete

    def _advance(self) -> None:
        run = self._run
        run.profiler.step()
        with run.speed.waiting():
            batch = run.to_device(next(run.batches))
        run.state, metrics = run.train_step(run.state, run.frozen, batch)
        run.stop.listen()  # not before: compiling takes minutes, and there is nothing to save
        self._step += 1
        self._window.push(self._step, metrics)

    def _is_due(self, every: int) -> bool:
        return self._step == self._num_steps or (every > 0 and self._step % every == 0)

    def _is_evaluation_due(self) -> bool:
        return self._run.evaluate is not None and self._is_due(self._intervals.evaluate)

    def _log(self) -> dict[str, float]:
        """Writes the means since the last log, and what is wrong with them."""
        run, window = self._run, self._window
        run.checkpointer.check()
        window.drain()
        for step, fault in window.skipped:
            run.events.write(step, "skipped", f"{fault}; the step changed nothing")
        values = window.means()
        alarms = self._guards.alarms(values)
        for name in sorted(alarms.keys() - self._alarms):
            run.events.write(self._step, "codebook", alarms[name])
        self._alarms = set(alarms)
        rates = run.speed.rates()
        run.writer.write_scalars(
            self._step, {f"train/{name}": value for name, value in (values | rates).items()}
        )
        return values | rates

    def _evaluate(self) -> None:
        run = self._run
        if run.evaluate is not None:
            self._window.drain()
            with run.speed.paused():
                run.checkpointer.wait()  # whatever an evaluation does, the step is not lost
                run.evaluation = run.evaluate(run.state)
            run.writer.write_scalars(
                self._step, {f"eval/{name}": value for name, value in run.evaluation.items()}
            )
            run.checkpointer.record(self._step, run.evaluation)
        run.is_evaluation_due = False

    def _save(self, *, always: bool = False) -> None:
        """Saves, unless the latest steps were skipped: what led there is no place to go back to."""
        run = self._run
        self._window.drain()
        if self._window.skipped_in_row and not always and self._step < self._num_steps:
            return
        beside = beside_state(run.batches, run.is_evaluation_due)
        with run.speed.paused():
            run.checkpointer.save(self._step, run.state, beside)
