"""Measures a trained tokenizer: python -m vqlab.evaluate --workdir=DIR

Prints each number with the protocol it was taken by, and saves evaluation.json, report.html and
a picture in the workdir. The workdir is that of a training run, measured in the dtype that it
trains in, as training measures it; `--source` takes an exported or converted folder instead, or
user/name of one on the Hugging Face Hub, with `--config` for the data to measure on.
"""

from __future__ import annotations

import functools
import pathlib

import jax
from absl import flags
from clu import parameter_overview

from vqlab.evaluation.evaluators import EvaluationError, run_evaluators
from vqlab.evaluation.report import REPORT_FILE, format_table
from vqlab.export.frozen import read_networks
from vqlab.host import cli, cluster
from vqlab.inference import load
from vqlab.runs import parts, results
from vqlab.runs.comparison import format_curves, read_comparison
from vqlab.runs.evals import build_evaluators, used_networks
from vqlab.runs.workdir import load_config
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.disk import naming

_WORKDIR = flags.DEFINE_string("workdir", None, "A training run's folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best or a number.")
_SOURCE = flags.DEFINE_string(
    "source", None, "Measure this exported folder instead of the workdir's checkpoint."
)
_LPIPS = flags.DEFINE_string(
    "lpips_weights", None, "vgg16.pth,vgg.pth, to measure LPIPS; '' for not; default: the config's."
)
_COMPARE = flags.DEFINE_list(
    "compare", [], "Workdirs of evaluated runs, to draw and print their curves beside this one's."
)
flags.adopt_module_key_flags(cli)  # so that --help has them
flags.adopt_module_key_flags(cluster)


def main() -> None:
    """Loads, evaluates, prints and writes."""
    with cli.exit_on_error():
        cluster.join()
        workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
        config = cli.CONFIG.value or load_config(workdir)
        require_writable(workdir)
        others = read_comparison(_WORKDIR.value, _COMPARE.value)
        tokenizer = load(_SOURCE.value or workdir, _STEP.value, dtype="config")  # as in training
        files = parts.frozen_files(config)
        if _LPIPS.value is not None:
            files["lpips"] = _LPIPS.value
        frozen = read_networks(files, {}, needed=(), used=used_networks(config))
        mesh = sharding.make_mesh(-1, 1)
        read_source = functools.partial(parts.build_source, config.data)
        evaluators = build_evaluators(config, tokenizer.codec, mesh, frozen, read_source)
        if not evaluators:
            raise ValueError(
                f"nothing to evaluate: of config.evals {list(config.evals)} none is left"
            )
    weights, frozen = jax.device_put((tokenizer.weights, frozen), sharding.replicated(mesh))
    try:
        with jax.set_mesh(mesh):
            values = run_evaluators(evaluators, weights, frozen)
    except EvaluationError as error:
        cluster.end(str(error))
    if not values:
        cluster.end("nothing could be evaluated")
    print(format_table(values, results.protocols(evaluators)))
    with naming(workdir / REPORT_FILE):
        page = results.write_results(
            workdir,
            config,
            tokenizer.codec.card(),
            evaluators,
            values,
            step=_STEP.value,
            parameters=parameter_overview.count_parameters(tokenizer.params),
            load_path=str(_SOURCE.value or workdir),
            comparison=others,
        )
    if curves := format_curves({workdir.name: values} | others):
        print(curves)
    print(f"report  {page}")


if __name__ == "__main__":
    cli.start(main)
