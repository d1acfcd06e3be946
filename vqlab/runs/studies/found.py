"""What the finished runs of an arm hold together, for the sections that several kinds show."""

from __future__ import annotations

from collections.abc import Sequence

from vqlab.evaluation.bjontegaard import mean_and_error
from vqlab.evaluation.study_pictures import Pictures
from vqlab.runs.studies import training
from vqlab.runs.studies.kinds import Finished


def by_arm(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each arm that has any, in the order in which arms appear."""
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(run.job.arm.name, []).append(run)
    return found


def metrics(runs: Sequence[Finished]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard error over an arm's runs of what all of them measured."""
    common = [name for name in runs[0].results if all(name in run.results for run in runs)]
    return {name: mean_and_error(run.results[name] for run in runs) for name in common}


def pictures(runs: Sequence[Finished]) -> dict[str, Pictures]:
    """Of each arm those of its first run that saved any."""
    found: dict[str, Pictures] = {}
    for run in runs:
        if run.job.arm.name not in found:
            if (own := training.read_pictures(run.folder)) is not None:
                found[run.job.arm.name] = Pictures(*own)
    return found
