"""Trains: python -m vqlab.main --config=configs/mgvq_f16.py --workdir=DIR

Any setting of the config can be changed on the command line, as in
`--config.model.quantizer.num_groups=8`. The same command, given again, goes on where the run
stopped. At the end the workdir holds report.html, the checkpoints and export/.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
from collections.abc import Mapping

import jax
from absl import flags
from clu import parameter_overview

from vqlab.data import CorruptDataError
from vqlab.evaluation.evaluators import EvaluationError
from vqlab.evaluation.report import REPORT_FILE
from vqlab.export.package import Package, save_package
from vqlab.host import cli, cluster
from vqlab.host.lock import only_run
from vqlab.host.memory import keep_freed_memory
from vqlab.runs import build, results
from vqlab.runs.comparison import format_curves, read_comparison
from vqlab.training.checkpoint import CheckpointError
from vqlab.training.disk import naming, write_text
from vqlab.training.loop import DivergedForGood, Intervals, train
from vqlab.training.stopping import StopRequested, StopSignal

_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the report go.")
_COMPARE = flags.DEFINE_list(
    "compare", [], "Workdirs of evaluated runs, to draw and print their curves beside this run's."
)
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(cli)  # so that --help has them
flags.adopt_module_key_flags(cluster)

log = logging.getLogger("vqlab")

# Stopped by a signal, or left alone by another process; what there was to save is saved. Give the
# same command again: EX_TEMPFAIL, which schedulers can be told to requeue on.
EXIT_STOPPED = 75


def main() -> None:
    """Builds the run, trains it, and writes what it made."""
    config = cli.CONFIG.value
    stop = StopSignal()
    with contextlib.ExitStack() as held:
        with cluster.ending_with_peers(EXIT_STOPPED), cli.exit_on_error():
            cluster.join()
            if jax.process_index() == 0 and "://" not in _WORKDIR.value:
                held.enter_context(only_run(_WORKDIR.value))
            if jax.default_backend() == "cpu":
                keep_freed_memory()
            others = read_comparison(_WORKDIR.value, _COMPARE.value)
            training = build.build_run(config, _WORKDIR.value, stop)
        workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
        log.info("%s", overview(training, workdir))
        with jax.set_mesh(training.mesh), contextlib.closing(training.run):
            # Within: alone, closing would wait for others for ever.
            with cluster.ending_with_peers(EXIT_STOPPED):
                is_complete = train_to_the_end(config, workdir, training, others)
    if not is_complete:
        sys.exit(EXIT_STOPPED)


def train_to_the_end(
    config, workdir: pathlib.Path, training: build.TrainingRun, others: Mapping
) -> bool:
    """Trains, then evaluates and exports; False where it was stopped before all was done."""
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
        cluster.end(f"{error}; last good checkpoint: {last}; report: {page}")
    except EvaluationError as error:
        steps = training.run.checkpointer.steps()
        cluster.end(f"{error}; the newest checkpoint is {steps[-1] if steps else 'none'}")
    except (CheckpointError, CorruptDataError, OSError) as error:
        cluster.end(str(error))


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
            cluster.end(str(error))
        if curves := format_curves({workdir.name: run.evaluation or {}} | dict(others or {})):
            log.info("%s", curves)
        log.info("report      %s", page)
        log.info("checkpoint  %s", run.checkpointer.directory / str(int(state.step)))
        log.info("export      %s", workdir / "export")


if __name__ == "__main__":
    cli.start(main)
