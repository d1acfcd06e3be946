"""Kinds of studies: what an arm is, what is found out of its runs, and how it is shown.

A kind joins by a class on `StudyKind`, a file beside this one, and a line in `studies.KINDS`; a
study's config names it by `kind`. Runs, locks, workdirs, resuming, records and the page's frame are
the same for all.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from vqlab.data import SOURCES
from vqlab.evaluation.panels import Section
from vqlab.runs.results import EVALUATION_FILE, read_protocols, read_results
from vqlab.runs.studies import training
from vqlab.runs.studies.arms import Arm, Config, Job
from vqlab.runs.studies.record import Record, read_record
from vqlab.training.stopping import StopSignal


class Shown(NamedTuple):
    """What a kind makes of runs.

    sections: the page but for its head and its end. findings: in JSON types, for study.json.
    assets: styles and scripts of `evaluation/assets` that the sections need.
    """

    sections: list[Section]
    findings: dict[str, Any]
    assets: tuple[str, ...] = ()


class Finished(NamedTuple):
    """A run that has ended, with what it measured and how, by "EVALUATOR/METRIC"."""

    job: Job
    folder: pathlib.Path
    record: Record
    results: dict[str, float]
    protocols: dict[str, str]


class StudyKind:
    """What a kind of study does of its own; the defaults are those of arms that are trained.

    Attributes:
      equal: top-level settings in which all arms have to be equal.
    """

    equal: ClassVar[tuple[str, ...]] = (
        "data",
        "augment",
        "image_size",
        "batch_size",
        "num_steps",
        "evals",
    )

    def __init__(self, study: Config, arms: Mapping[str, Arm]):
        """Raises ValueError for a setting of the study that cannot work, before anything runs."""
        self._study, self._arms = study, arms
        for arm in arms.values():
            self.check(arm)

    def check(self, arm: Arm) -> None:
        """Raises ValueError for an arm that cannot run; nothing compiles here."""
        training.check(arm.config)

    def describe_data(self) -> str:
        """What the arms learn from, for the page."""
        node = self._study.base.data
        setting = SOURCES[node.name].setting
        return f"{node.name} {node[setting]}" if setting else node.name

    def train(
        self, config: Config, folder: pathlib.Path, stop: StopSignal, description: str
    ) -> dict[str, float] | None:
        """Runs one arm with one seed in its folder, from where it stands; its costs, by name.

        None where `stop` ended it before its end. `description` is for its progress bar. At the end
        `read` finds its results in the folder.

        Raises:
          CannotBegin: a setting cannot work, which ends the study.
          RunFailed: it ended for a reason of its own; the study goes on without it.
        """
        return training.train(config, folder, stop, description)

    def read(self, job: Job, folder: pathlib.Path) -> Finished | None:
        """A run as it stands on disk; None where it has not ended."""
        record = read_record(folder)
        if record is None or not record.is_finished or not (folder / EVALUATION_FILE).exists():
            return None
        return Finished(job, folder, record, read_results(folder), read_protocols(folder))

    def show(self, runs: Sequence[Finished]) -> Shown:
        """What the runs so far say; called also while runs are missing."""
        raise NotImplementedError
