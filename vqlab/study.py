"""Trains the arms of a study and compares them: python -m vqlab.study --study=FILE --workdir=DIR

    python -m vqlab.study --study=configs/studies/beat_vae.py:quick --workdir=runs/study

Each arm is a training config, each of its seeds a run in DIR/ARM/seedS through the trainer of
`vqlab.main`. What is finished is left alone, so the same command, given again, goes on where it
stopped; DIR/study.json and DIR/study.html are written anew after each run.

    --arm=NAME --seed=S      one run, as in a SLURM array; several may work in one DIR
    --arms=A,B               some arms
    --data=folder:PATH       other images for all arms; also tfds:NAME, records:PATH, photos
    --study.base.num_steps=N any setting for all arms; --study.arms.NAME.changes... for one
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shlex
import sys
from collections.abc import Iterator

import jax
from absl import flags
from ml_collections import config_flags

from vqlab.host import cli, cluster
from vqlab.host.lock import if_free
from vqlab.host.memory import keep_freed_memory
from vqlab.registry import choose
from vqlab.runs.studies import KINDS, record
from vqlab.runs.studies.arms import choose_jobs, read_arms, with_data
from vqlab.runs.studies.page import write_study
from vqlab.runs.studies.runner import Outcome, run_jobs
from vqlab.runs.trainer import CannotBegin, RunFailed
from vqlab.training.checkpoint import require_writable
from vqlab.training.stopping import EXIT_STOPPED

_STUDY = config_flags.DEFINE_config_file(
    "study", help_string="Study's config, such as configs/studies/beat_vae.py:quick."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the runs, study.json and study.html go.")
_ARM = flags.DEFINE_string("arm", None, "Runs this arm alone.")
_SEED = flags.DEFINE_integer("seed", None, "Runs this seed alone.")
_ARMS = flags.DEFINE_list("arms", None, "Runs these arms alone.")
_DATA = flags.DEFINE_string(
    "data", None, "Images for all arms: folder:PATH, tfds:NAME, records:PATH or photos."
)
flags.mark_flags_as_required(["study", "workdir"])
flags.adopt_module_key_flags(cluster)

log = logging.getLogger("vqlab")


def main() -> None:
    """Checks everything, runs what is missing, and writes the page after each run."""
    study = _STUDY.value
    with cluster.ending_with_peers(EXIT_STOPPED), cli.exit_on_error():
        cluster.join()
        if cli.CONFIG.value is not None:
            raise ValueError("a study takes --study; settings of all arms are --study.base...")
        if _DATA.value is not None:
            with study.unlocked():
                with_data(study.base, _DATA.value)
        kind_type = choose("kind of study", study.kind, KINDS)
        arms = read_arms(study, kind_type.equal)
        jobs = choose_jobs(arms, _names(), _SEED.value)
        kind = kind_type(study, arms)
        workdir = require_writable(_WORKDIR.value)
        for job in choose_jobs(arms):
            record.check_unchanged(job, workdir / job.folder)
    if jax.default_backend() == "cpu":
        keep_freed_memory()

    def write_page() -> None:
        log.info("page  %s", write_study(study, kind, arms, workdir, _command()))

    with cluster.ending_with_peers(EXIT_STOPPED):
        try:
            outcome = run_jobs(jobs, workdir, kind.train, _hold, write_page)
        except CannotBegin as error:
            cli.fail(str(error))
        except RunFailed as error:  # of several processes
            cluster.end(str(error))
    if jax.process_index() == 0:
        write_page()
    _end(outcome)


def _names() -> list[str] | None:
    if _ARM.value is not None and _ARMS.value is not None:
        raise ValueError("give --arm or --arms, not both")
    return [_ARM.value] if _ARM.value is not None else _ARMS.value


@contextlib.contextmanager
def _hold(folder: pathlib.Path) -> Iterator[bool]:
    """Whether a run's folder is this command's: process 0 locks it for all."""
    if jax.process_index() == 0:
        with if_free(folder) as is_free:
            yield is_free
    else:
        yield True


def _command() -> str:
    """As it was given, for the page."""
    return shlex.join(["python", "-m", "vqlab.study", *sys.argv[1:]])


def _end(outcome: Outcome) -> None:
    """Says what is left, with the exit code that schedulers know."""
    if outcome.failed:
        runs = ", ".join(outcome.failed)
        cluster.end(f"{len(outcome.failed)} of the runs failed: {runs}; see the page")
    if outcome.elsewhere:
        log.info("other processes are at %s", ", ".join(outcome.elsewhere))
    if outcome.is_stopped or outcome.elsewhere:
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    cli.start(main)
