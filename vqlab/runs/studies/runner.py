"""Runs what is missing of a study, one after the other, in this process.

In this process and not each in one of its own: the trainer is called as `vqlab.main` calls it, JAX
starts and its libraries are imported once instead of once an arm (5 s each on a CPU, more on a
pod), several hosts meet once, and what an arm compiled serves the next seed. A run that breaks its
process does end the study, which goes on when the command is given again; who wants a process for
each run starts them by `--arm` and `--seed`.

Several processes and machines may work on one study: whoever holds a run's folder trains it, and
the others go on to the next.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vqlab.runs.studies import record
from vqlab.runs.studies.arms import Job
from vqlab.runs.trainer import RunFailed
from vqlab.training.stopping import StopSignal

log = logging.getLogger("vqlab")

# Takes a folder; gives whether it is this process's inside of the context.
Hold = Callable[[pathlib.Path], AbstractContextManager[bool]]
# (config, folder, stop, description) -> costs; None where it was stopped.
Train = Callable[[Any, pathlib.Path, StopSignal, str], dict | None]


@dataclasses.dataclass
class Outcome:
    """How the jobs ended.

    Attributes:
      is_stopped: by a signal.
      elsewhere: runs that other processes are at.
      failed: {run: why}.
    """

    is_stopped: bool = False
    elsewhere: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


def is_finished(workdir: pathlib.Path, job: Job) -> bool:
    """Whether nothing is left to do of a run; the same on all processes."""
    found = record.read_record(workdir / job.folder)
    return bool(_of_first_process(found is not None and found.is_finished))


def run_jobs(
    jobs: Sequence[Job],
    workdir: pathlib.Path,
    train: Train,
    hold: Hold,
    after_each: Callable[[], None],
) -> Outcome:
    """Trains those of the jobs that are missing.

    Args:
      jobs: in this order.
      workdir: of the study.
      train: see above.
      hold: see above.
      after_each: called on process 0 after each run that ended, however it did.

    Raises:
      CannotBegin: a setting cannot work.
      RunFailed: one of several processes failed; alone the study goes on with the next run.
    """
    outcome, clock, busy = Outcome(), _Clock(len(_missing(jobs, workdir))), []
    for place, job in enumerate(jobs, 1):
        folder = workdir / job.folder
        if is_finished(workdir, job):
            continue
        with hold(folder) as is_held:
            if not _of_first_process(is_held):
                log.info("%s: another process is at it", job.label)
                busy.append(job)
                continue
            if is_finished(workdir, job):  # by another process, until just now
                continue
            label = f"{place}/{len(jobs)} {job.label}"
            log.info("%s%s", label, clock.text(len(_missing(jobs, workdir))))
            is_complete = _run(job, folder, train, outcome, label)
        if jax.process_index() == 0:
            after_each()
        if not is_complete:
            outcome.is_stopped = True
            break
        _forget()
    outcome.elsewhere = [job.label for job in _missing(busy, workdir)]
    return outcome


def _missing(jobs: Sequence[Job], workdir: pathlib.Path) -> list[Job]:
    return [job for job in jobs if not is_finished(workdir, job)]


def _run(job: Job, folder: pathlib.Path, train: Train, outcome: Outcome, label: str) -> bool:
    """False where a signal stopped it."""
    config, is_first = job.arm.config_of(job.seed), jax.process_index() == 0
    kept = record.begin(folder) if is_first else record.Record()
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    try:
        costs = train(config, folder, StopSignal(), label)
        news = {"is_finished": costs is not None, "costs": costs or {}, "device": device}
    except RunFailed as error:
        if jax.process_count() > 1:  # the others may be elsewhere
            raise
        log.error("%s failed: %s", job.label, error)
        outcome.failed[job.label] = str(error)
        costs, news = {}, {"error": str(error), "device": device}
    if is_first:
        record.end(folder, kept, **news)
    return costs is not None


def _of_first_process(flag: bool) -> bool:
    """What process 0 says: files may look different from elsewhere."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def _forget() -> None:
    """Frees what the last run compiled and held; the cache on disk keeps the programs."""
    jax.clear_caches()
    gc.collect()


class _Clock:
    """How long the `left` runs will take, at the pace of all processes that work on the study."""

    def __init__(self, left: int):
        self._first, self._start = left, time.monotonic()

    def text(self, left: int) -> str:
        """ "" before any was finished."""
        if left == self._first:
            return ""
        minutes = (time.monotonic() - self._start) / (self._first - left) * left / 60
        return f": about {minutes:.0f} minutes left of the study"
