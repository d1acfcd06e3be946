"""Measures a trained tokenizer: python -m vqlab.evaluate --workdir=DIR

Prints each number with the protocol it was taken by, and saves evaluation.json, report.html and
a picture in the workdir. The workdir is that of a training run, measured in the dtype that it
trains in, as training measures it; `--source` takes an exported or converted folder instead, with
`--config` for the data to measure on.
"""

from __future__ import annotations

import functools
import pathlib

import jax
from absl import flags

from vqlab import build, cli, cluster, results
from vqlab.comparison import format_curves, read_comparison
from vqlab.evals import build_evaluators
from vqlab.evaluation.evaluators import EvaluationError, run_evaluators
from vqlab.evaluation.report import REPORT_FILE, format_table
from vqlab.export.lpips_weights import read_lpips
from vqlab.inference import load
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.disk import naming
from vqlab.workdir import load_config

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


def evaluation_networks(config, tokenizer) -> dict:
    """The frozen networks that evaluating takes: the model's own autoencoder, LPIPS if given."""
    frozen = {"latent_space": tokenizer.variables.get("latent_space", {})}
    if config.objective.lpips_weights:
        frozen["lpips"] = read_lpips(config.objective.lpips_weights)
    return frozen


def main() -> None:
    """Loads, evaluates, prints and writes."""
    with cli.exit_on_error():
        cluster.join()
        workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
        config = cli.CONFIG.value or load_config(workdir)
        require_writable(workdir)
        others = read_comparison(_WORKDIR.value, _COMPARE.value)
        tokenizer = load(_SOURCE.value or workdir, _STEP.value, dtype="config")  # as in training
        config.unlock()
        config.model = tokenizer.node
        if _LPIPS.value is not None:
            config.objective.lpips_weights = _LPIPS.value
        frozen = evaluation_networks(config, tokenizer)
        mesh = sharding.make_mesh(-1, 1)
        read_source = functools.partial(build.build_source, config.data)
        evaluators = build_evaluators(config, tokenizer.module, mesh, read_source)
        if not evaluators:
            raise ValueError(
                f"nothing to evaluate: of config.evals {list(config.evals)} none is left"
            )
    variables = {k: x for k, x in tokenizer.variables.items() if k != "latent_space"}
    weights = jax.device_put((tokenizer.params, variables, frozen), sharding.replicated(mesh))
    try:
        with jax.set_mesh(mesh):
            values = run_evaluators(evaluators, *weights)
    except EvaluationError as error:
        cluster.fail(str(error))
    if not values:
        cluster.fail("nothing could be evaluated")
    print(format_table(values, results.protocols(evaluators)))
    with naming(workdir / REPORT_FILE):
        page = results.write_results(
            workdir,
            config,
            evaluators,
            values,
            step=_STEP.value,
            parameters=results.count_parameters(tokenizer.params),
            load_path=str(_SOURCE.value or workdir),
            comparison=others,
        )
    if curves := format_curves({workdir.name: values} | others):
        print(curves)
    print(f"report  {page}")


if __name__ == "__main__":
    cli.run(main)
