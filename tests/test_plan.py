"""The command that says what a config costs."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from absl.testing import flagsaver
from clu import parameter_overview

from configs import mgvq_f16, semanticist_demo, semanticist_l
from vqlab import plan
from vqlab.export.frozen import network_shapes
from vqlab.planning import compiling, topologies
from vqlab.planning.chips import GIB
from vqlab.planning.describe import describe, row
from vqlab.runs import estimate, parts

ROOT = pathlib.Path(__file__).parent.parent
DEMO = "--config=configs/semanticist_l.py:debug"
needs_libtpu = pytest.mark.skipif(
    topologies.libtpu_version() is None, reason="libtpu is not installed"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the commands of this file keep their answers."""
    return tmp_path_factory.mktemp("kept")


def run(kept, *arguments):
    environment = os.environ | {"XDG_CACHE_HOME": str(kept), "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)


def command(*arguments, without_libtpu=False):
    """The command line; `without_libtpu` even where it is installed."""
    if not without_libtpu:
        return [sys.executable, "-m", "vqlab.plan", *arguments]
    code = (
        "import runpy; from vqlab.planning import topologies; "
        "topologies.libtpu_version = lambda: None; "
        "runpy.run_module('vqlab.plan', run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, *arguments]


def test_without_libtpu_it_says_so_and_counts_with_the_cpus_compiler(kept, tmp_path):
    arguments = [DEMO, "--topology=v5e:2x2", "--images=1000", "--row", "--json"]
    arguments.append(f"--output={tmp_path / 'plan.json'}")
    done = run(kept, *command(*arguments, without_libtpu=True))
    assert done.returncode == 0, done.stderr
    assert "libtpu is not installed" in done.stderr and "compiling 8 images" in done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["fits"] is True and answer["cached"] is False
    assert (answer["chip"], answer["compiler"][-7:]) == ("v5e", "for CPU")
    assert (answer["num_devices"], answer["batch_per_device"]) == (4, 2)
    memory = answer["memory"]
    assert memory["peak"] >= memory["arguments"] + memory["temporaries"]
    # Parameters, two moments and the average are float32 on every device.
    assert memory["arguments"] > 4 * 4 * answer["parameters"]["tokenizer"]
    # Each gradient is reduced once, in a ring of four.
    gradients = 2 * 4 * answer["parameters"]["tokenizer"] * 3 / 4
    assert answer["collectives"]["all-reduce"]["bytes"] == pytest.approx(gradients, rel=0.02)
    times = answer["roofline_seconds"]
    assert answer["step_seconds"] == max(times.values()) == times[answer["bound_by"]]
    assert answer["epoch"]["images"] == 1000
    assert done.stdout.splitlines()[-2] == row(answer)
    assert json.loads((tmp_path / "plan.json").read_text()) == answer


def test_what_was_compiled_is_kept_by_program_and_topology(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "_devices", lambda *_: jax.devices())
    lowered = [jax.jit(lambda x, n=n: x * n).lower(1.0) for n in (2, 2, 3)]
    h100, h200 = topologies.parse_gpus(8, "h100"), topologies.parse_gpus(8, "h200")
    first, again, other, elsewhere = (
        plan.Compiler(topology) for topology in (h100, h100, h100, h200)
    )
    result = first(lowered[0])
    assert again(lowered[1]) == result
    other(lowered[2])
    elsewhere(lowered[0])
    kept = [compiler.is_kept for compiler in (first, again, other, elsewhere)]
    assert kept == [False, True, False, False]
    with flagsaver.flagsaver(no_cache=True):
        anew = plan.Compiler(h100)
        anew(lowered[0])
    assert not anew.is_kept


def test_gpus_or_a_slice():
    with flagsaver.flagsaver(gpus=16, gpu="h200"):
        topology = plan._topology()
        assert (topology.name, plan._compiler(topology)[-7:]) == ("h200:16", "for CPU")
    with flagsaver.flagsaver(gpus=8, topology="v5e:2x4"):
        with pytest.raises(ValueError, match="give either --topology"):
            plan._topology()
    with pytest.raises(ValueError, match="give either --topology"):
        plan._topology()


@needs_libtpu
@pytest.mark.slow
def test_a_tpu_slice(kept):
    done = run(kept, *command(DEMO, "--topology=v5e:2x4", "--json"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["num_devices"], answer["fits"]) == (8, True)
    assert "libtpu" in answer["compiler"]


def test_nonsense_is_one_line_and_exit_code_2(kept):
    done = run(kept, *command(DEMO, "--topology=v9:2x4"))
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: unknown TPU 'v9'; known: v4, v5e, v5p, v6e\n"


def test_a_config_that_cannot_work_is_named():
    config = semanticist_demo.get_config("debug").copy_and_resolve_references()
    with pytest.raises(ValueError, match="nothing is precomputed"):
        estimate.trace_step(config, jax.devices(), precomputed=True)
    with pytest.raises(ValueError, match="batch_size=8 does not divide over 3"):
        estimate.trace_step(config, jax.devices()[:3])
    config.mesh.fsdp = 3
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        estimate.trace_step(config, jax.devices())


def test_what_does_not_fit_is_an_answer():
    refusal = compiling.OutOfMemory(40 * GIB, 15 * GIB, seconds=7.0)
    topology = topologies.parse_tpu("v5e:2x4")
    config = semanticist_l.get_config("debug").copy_and_resolve_references().unlock()
    config.batch_size = 32
    answer = estimate.estimate(config, topology, jax.devices(), lambda lowered: refusal)
    assert answer["fits"] is False
    assert answer["memory"]["available"] == 15 * GIB
    assert answer["memory"]["peak"] == answer["memory"]["arguments"] + 40 * GIB
    assert answer["step_seconds"] is None and answer["flops"] > 0
    # 40 GiB for 4 images a device: one fits.
    assert answer["largest_batch_per_device"] == {"images": 1, "how": "estimated"}
    answer |= {"epoch": estimate.epoch(answer, 1000), "cached": False, "compiler": "a compiler"}
    answer["config"] = "demo.py"
    assert row(answer) == "| `demo.py` | v5e:2x4 | 32 | 40.00 of 15.00 | no |  |  |  |  |  |"
    text = describe(answer)
    assert "DOES NOT FIT: 40.00 GiB of 15.00 a device" in text and "7 s by a compiler" in text


def test_the_largest_batch_is_compiled_on_request():
    # The state's few MB are nothing here. 2.5 GiB for one image: 6 of them fit 15.75.
    config = semanticist_l.get_config("debug").copy_and_resolve_references()
    topology, sizes = topologies.parse_tpu("v5e:2x4"), []

    def compile_program(lowered):
        sizes.append(lowered.args_info[0][2]["images"].shape[0] // 8)
        peak = (1.5 + sizes[-1]) * GIB
        return compiling.Compiled("ENTRY %main () -> f32[] {\n}", compiling.Memory(0, 0, 0, peak))

    answer = estimate.estimate(config, topology, jax.devices(), compile_program, verify=True)
    assert answer["largest_batch_per_device"] == {"images": 6, "how": "compiled"}
    assert sizes == [1, 6]


def test_frozen_networks_have_shapes_without_files():
    config = semanticist_l.get_config("repa").copy_and_resolve_references()

    def sizes(config):
        objective = parts.build_objective(config)
        frozen = network_shapes(objective.needs, objective.network.frozen_parts())
        return {name: parameter_overview.count_parameters(tree) for name, tree in frozen.items()}

    assert sizes(config) == {"latent_space": 66_456_019, "repa": 86_579_712}
    assert sizes(mgvq_f16.get_config()) == {"lpips": 14_714_688 + 1_472}
    assert sizes(semanticist_demo.get_config()) == {}
