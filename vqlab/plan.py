"""What a config costs before renting it: python -m vqlab.plan --config=FILE --topology=v5e:4x8

Compiles the real train step ahead of time with libtpu, which needs no TPU, and prints parameters,
memory, work, collectives, the time of a step by the roofline, and hours of an epoch. Without libtpu
(`pip install --no-deps -r requirements-plan.txt`) it says so and counts with the CPU's compiler.

    --topology=v4:2x2x4      of v4, v5e, v5p, v6e
    --gpus=8 --gpu=h100      GPUs in servers of eight, by the CPU compiler's counts
    --json                   ends with one line of JSON that holds all of it, among it `fits`

Times are what the hardware allows at its peak rates, when arithmetic, memory and interconnect
overlap: a floor, that real steps stay above. What was compiled is kept in ~/.cache/vqlab/plan, by
program, topology and versions.
"""

from __future__ import annotations

import json
import logging
import pathlib
import re
import time
from typing import Any

import jax
import jaxlib
from absl import flags
from ml_collections import config_flags

from vqlab.data import SOURCES
from vqlab.host import cli
from vqlab.planning import answers, compiling
from vqlab.planning.chips import GPUS, TPUS
from vqlab.planning.describe import describe, row
from vqlab.planning.topologies import (
    Topology,
    libtpu_version,
    parse_gpus,
    parse_tpu,
    tpu_devices,
)
from vqlab.registry import choose
from vqlab.runs import estimate

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"A TPU slice, CHIP:SHAPE of {', '.join(chip.name for chip in TPUS)}."
)
_GPUS = flags.DEFINE_integer("gpus", None, "Number of GPUs, instead of a topology.")
_GPU = flags.DEFINE_string("gpu", "h100", f"Of {', '.join(chip.name for chip in GPUS)}.")
_IMAGES = flags.DEFINE_integer("images", None, "Images of an epoch; default: ImageNet's.")
_PRECOMPUTED = flags.DEFINE_bool(
    "precomputed", False, "Batches bring what frozen networks make: latents, features or codes."
)
_VERIFY = flags.DEFINE_bool("verify", False, "Also compile the largest batch that should fit.")
# At -1 beside the default: mgvq_f16 on v5e:4x8 compiled in 182 s instead of 1498 s, with 11.65 GiB
# instead of 12.84 and 59 % more memory traffic; semanticist_l:repa on v5e:8x8 in 40 s instead of
# ten minutes, with 14.54 GiB instead of 11.61.
_EFFORT = flags.DEFINE_float(
    "effort",
    None,
    "libtpu's effort, -1..1. At -1 it compiles eight times faster for a first look: memory may be "
    "off by a quarter, and time is too high. Default: what training compiles with.",
    lower_bound=-1,
    upper_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File for the JSON; default: named after config and topology in ~/.cache."
)
_JSON = flags.DEFINE_bool("json", False, "End with one line of JSON.")
_ROW = flags.DEFINE_bool("row", False, "End with one row of a Markdown table.")
_NO_CACHE = flags.DEFINE_bool("no_cache", False, "Compile again, whatever is kept.")
flags.mark_flag_as_required("config")
flags.adopt_module_key_flags(cli)  # so that --help has it

log = logging.getLogger("vqlab")

# Without its optimizer the CPU's compiler counts the same, in a fraction of the time.
CPU_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def main() -> None:
    """Compiles, or reads what was compiled before; prints and writes the answer."""
    with cli.exit_on_error():
        config = cli.CONFIG.value
        topology = _topology()
        images = _epoch_images(config)
        answer = _estimate(config, topology)
        answer["epoch"] = estimate.epoch(answer, images)
        path = pathlib.Path(_OUTPUT.value or _default_output(topology))
        answers.write(path, answer)
    print(describe(answer))
    print(f"{'written to':14}{path}")
    if _ROW.value:
        print(row(answer))
    if _JSON.value:
        print(json.dumps(answer))


def _topology() -> Topology:
    if (_TOPOLOGY.value is None) == (_GPUS.value is None):
        raise ValueError("give either --topology, such as v5e:4x8, or --gpus with --gpu")
    if _TOPOLOGY.value is not None:
        return parse_tpu(_TOPOLOGY.value)
    return parse_gpus(_GPUS.value, _GPU.value)


def _epoch_images(config) -> int | None:
    if _IMAGES.value is not None:
        if _IMAGES.value < 1:
            raise ValueError(f"images={_IMAGES.value} must be at least 1")
        return _IMAGES.value
    source = choose("data source", config.data.name, SOURCES)
    return source.known_images(config.data.to_dict())


def _compiler(topology: Topology) -> str:
    """The compiler at hand, in words."""
    if topology.chip.dimensions:
        if version := libtpu_version():
            return f"libtpu {version}"
        log.info(
            "libtpu is not installed (pip install --no-deps -r requirements-plan.txt): "
            "these are the counts of XLA's CPU compiler"
        )
    return f"XLA {jaxlib.__version__} for CPU"


def _devices(topology: Topology, compiler: str) -> list:
    """Devices to compile for; called before JAX's backend starts."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # seconds are the compiler's
    if compiler.startswith("libtpu"):
        return tpu_devices(topology)
    jax.config.update("jax_num_cpu_devices", topology.num_devices)
    return jax.devices()


def _default_output(topology: Topology) -> pathlib.Path:
    name = f"{pathlib.Path(_config_name()).stem}-{topology.name}"
    return answers.folder() / f"{re.sub('[^a-zA-Z0-9._=-]+', '-', name)}.json"


def _config_name() -> str:
    """The config file with its argument, as it was given."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


class Compiler:
    """Compiles a lowered step for a topology, unless that was done before.

    What was compiled is kept by the program itself, topology and versions: a setting or a line of
    code that does not change the program does not compile it again.
    """

    def __init__(self, topology: Topology):
        self.name = _compiler(topology)
        self.devices = _devices(topology, self.name)
        self.is_own = self.name.startswith("libtpu")
        self.is_kept = True
        self._topology = topology
        self._start = time.perf_counter()

    def progress(self, text: str) -> None:
        """One line on stderr."""
        log.info("%6.0f s  %s", time.perf_counter() - self._start, text)

    def __call__(self, lowered: jax.stages.Lowered) -> compiling.Compiled | compiling.OutOfMemory:
        """What the program takes."""
        options = CPU_OPTIONS
        if self.is_own:
            effort = _EFFORT.value
            options = None if effort is None else {"exec_time_optimization_effort": effort}
        question = {
            "program": lowered.as_text(),
            "topology": self._topology.name,
            "options": options,
            "versions": [self.name, jax.__version__, jaxlib.__version__],
        }
        path = answers.path_of(question)
        kept = None if _NO_CACHE.value else answers.read(path)
        if kept is not None:
            return compiling.from_json(kept)
        self.is_kept = False
        result = compiling.compile_step(lowered, options, self.progress)
        answers.write(path, compiling.to_json(result))
        return result


def _estimate(config, topology: Topology) -> dict[str, Any]:
    compiler = Compiler(topology)
    answer = estimate.estimate(
        config,
        topology,
        compiler.devices,
        compiler,
        is_own_compiler=compiler.is_own,
        precomputed=_PRECOMPUTED.value,
        verify=_VERIFY.value,
        progress=compiler.progress,
    )
    facts = {"config": _config_name(), "compiler": compiler.name, "jax": jax.__version__}
    facts["effort"] = _EFFORT.value if compiler.is_own else None
    return facts | answer | {"cached": compiler.is_kept}


if __name__ == "__main__":
    cli.start(main)
