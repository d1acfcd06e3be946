"""A run from its parts to its results: trains, evaluates, reports, exports.

The one code path of `vqlab.main` and of every arm of a study.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping

import jax
from clu import parameter_overview

from vqlab.data import CorruptDataError
from vqlab.evaluation.evaluators import EvaluationError
from vqlab.evaluation.report import REPORT_FILE
from vqlab.export.package import Package, save_package
from vqlab.runs import build, results
from vqlab.runs.comparison import format_curves
from vqlab.training.checkpoint import CheckpointError
from vqlab.training.disk import naming, write_text
from vqlab.training.loop import DivergedForGood, Intervals, train
from vqlab.training.stopping import StopRequested

log = logging.getLogger("vqlab")


class RunFailed(RuntimeError):
    """A run ended before its end; the message says why and what is left, in one line."""


class CannotBegin(RuntimeError):
    """A setting cannot work, in one line; nothing was trained."""


def train_to_the_end(
    config, workdir: pathlib.Path, training: build.TrainingRun, others: Mapping
) -> bool:
    """Trains, then evaluates and exports; False where it was stopped before all was done.

    `others` are the results of other runs by name, to compare with.

    Raises:
      RunFailed: it diverged for good, or could not be evaluated, read or written.
    """
    intervals = Intervals(**config.intervals)
    try:
        state, is_complete = train(training.run, config.num_steps, intervals, training.guards)
        if is_complete:
            finish(config, workdir, training, state, others)
        return is_complete
    except StopRequested:  # within the last evaluation; the last step is saved
        return False
    except DivergedForGood as error:
        steps = training.run.checkpointer.steps()
        page = report(config, workdir, training, training.run.state, others)
        last = steps[-1] if steps else "none"
        raise RunFailed(f"{error}; last good checkpoint: {last}; report: {page}") from error
    except EvaluationError as error:
        steps = training.run.checkpointer.steps()
        newest = steps[-1] if steps else "none"
        raise RunFailed(f"{error}; the newest checkpoint is {newest}") from error
    except (CheckpointError, CorruptDataError, OSError) as error:
        raise RunFailed(str(error)) from error


def overview(training: build.TrainingRun, workdir: pathlib.Path) -> str:
    """One line on parameters, devices and where the run stands; parameters.txt has them all."""
    params = training.run.state.params
    if jax.process_index() == 0:
        table = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        write_text(workdir / "parameters.txt", table + "\n")
    counts = ", ".join(
        f"{name} {parameter_overview.count_parameters(tree):,}" for name, tree in params.items()
    )
    mesh = " x ".join(f"{axis}={size}" for axis, size in training.mesh.shape.items())
    device = training.mesh.devices.flat[0].device_kind
    return f"parameters: {counts}; mesh {mesh} of {device}; step {int(training.run.state.step)}"


def report(config, workdir: pathlib.Path, training: build.TrainingRun, state, others):
    """Writes the report of what was evaluated last; its path on process 0, None elsewhere."""
    params = training.weights(state).variables["params"]
    with naming(workdir / REPORT_FILE):
        return results.write_results(
            workdir,
            config,
            training.codec.card(),
            training.evaluators,
            training.run.evaluation or {},
            step=int(state.step),
            parameters=parameter_overview.count_parameters(params),
            load_path=str(workdir / "export"),
            comparison=others,
        )


def finish(
    config,
    workdir: pathlib.Path,
    training: build.TrainingRun,
    state,
    others: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Evaluates if that is still to do, writes report and export, and says where they are.

    `others` are the results of other runs by name, to compare with.

    Raises:
      RunFailed: the export cannot be written.
    """
    run = training.run
    if run.evaluation is None and run.evaluate is not None:
        run.evaluation = run.evaluate(state)
    page = report(config, workdir, training, state, others)
    weights = build.gather(training.weights(state))
    if jax.process_index() == 0:
        sampling = config.sampling.to_dict() if "sampling" in config else {}
        facts = {"steps": int(state.step), "training images": config.data.name}
        try:
            package = Package(config.model.to_dict(), weights, sampling)
            save_package(workdir / "export", package, facts)
        except ValueError as error:  # a full disk, or a folder of something else
            raise RunFailed(str(error)) from error
        if curves := format_curves({workdir.name: run.evaluation or {}} | dict(others or {})):
            log.info("%s", curves)
        for line in results.summaries(training.evaluators, run.evaluation or {}):
            log.info("%s", line)
        log.info("report      %s", page)
        log.info("checkpoint  %s", run.checkpointer.directory / str(int(state.step)))
        log.info("export      %s", workdir / "export")
