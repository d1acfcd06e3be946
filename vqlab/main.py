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

import jax
from absl import flags

from vqlab.host import cli, cluster
from vqlab.host.lock import only_run
from vqlab.host.memory import keep_freed_memory
from vqlab.runs import build, trainer
from vqlab.runs.comparison import read_comparison
from vqlab.training.stopping import EXIT_STOPPED, StopSignal

_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the report go.")
_COMPARE = flags.DEFINE_list(
    "compare", [], "Workdirs of evaluated runs, to draw and print their curves beside this run's."
)
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(cli)  # so that --help has them
flags.adopt_module_key_flags(cluster)

log = logging.getLogger("vqlab")


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
        log.info("%s", trainer.overview(training, workdir))
        with jax.set_mesh(training.mesh), contextlib.closing(training.run):
            # Within: alone, closing would wait for others for ever.
            with cluster.ending_with_peers(EXIT_STOPPED):
                try:
                    is_complete = trainer.train_to_the_end(config, workdir, training, others)
                except trainer.RunFailed as error:
                    cluster.end(str(error))
    if not is_complete:
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    cli.start(main)
