"""A run from its config to its exported tokenizer, resumed to the last bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import vqlab
from tests import exports, tiny
from tests.training.test_telemetry import tensorboard_events
from vqlab.export import lpips_weights
from vqlab.models.pretrained import lpips
from vqlab.runs import build, trainer
from vqlab.runs.workdir import load_config, save_config
from vqlab.training.events import read_events
from vqlab.training.loop import Intervals, train

ROOT = pathlib.Path(__file__).parent.parent
F16 = "--config=configs/mgvq_f16.py"


def run_until(config, workdir, num_steps):
    """Trains a workdir up to a step, from wherever it stands; returns the run's parts."""
    training = build.build_run(config, workdir)
    with jax.set_mesh(training.mesh):
        state, _ = train(training.run, num_steps, Intervals(**config.intervals))
    return training, state


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps on a 2x4 mesh: (workdir, state on the host)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = tiny.config()
    training, state = run_until(config, workdir, 4)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state)
    return workdir, jax.device_get(state)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(finished, tmp_path):
    _, straight = finished
    config = tiny.config()
    first, _ = run_until(config, tmp_path, 2)
    first.run.batches.close()
    first.run.checkpointer.close()
    second, resumed = run_until(config, tmp_path, 4)
    assert second.run.checkpointer.steps() == [2, 4]
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path)),
        straight,
        jax.device_get(resumed),
    )


def test_state_holds_both_optimizers_the_average_and_the_statistics(finished):
    _, state = finished
    assert set(state.opt_state) == set(state.params) == {"tokenizer", "discriminator"}
    assert set(state.ema) == {"tokenizer"}
    assert set(state.variables["tokenizer"]) == {"batch_stats", "codebook_stats"}
    assert (state.variables["tokenizer"]["codebook_stats"]["quantizer"]["usage_ema"] > 0).any()


def test_the_workdir_explains_itself(finished):
    workdir, _ = finished
    assert load_config(workdir).to_json() == tiny.config().to_json()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/loss/tokenizer" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    for name in ("usage_g1", "perplexity_g0", "dead_g0", "grad_norm/discriminator", "l2", "vq"):
        assert f"train/{name}" in trained[0]
    assert trained[0]["train/learning_rate/tokenizer"] == pytest.approx(1e-4)
    shown = tensorboard_events(workdir)
    assert {(0, "config/text_summary"), (4, "reconstruction")} <= set(shown)
    saved = json.loads((workdir / "evaluation.json").read_text())
    assert saved["step"] == 4
    psnr = saved["results"]["reconstruction/psnr"]
    assert psnr["value"] > 0 and "mean MSE" in psnr["protocol"]
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png") >= 2 * 3 + 2 and "usage" in page


def test_settings_that_a_run_cannot_resume_with_are_refused_before_anything_is_read(
    finished, monkeypatch
):
    workdir, _ = finished
    monkeypatch.setattr(build, "build_batches", None)
    monkeypatch.setattr(build, "build_frozen", None)
    config = tiny.config(ema_decay=0.0, num_steps=8).unlock()
    config.optimizer.discriminator.clip_norm = 0.0
    config.model.quantizer.codebook_size = 32
    with pytest.raises(ValueError) as error:
        build.build_run(config, workdir)
    assert str(error.value).endswith(
        "cannot go on with other settings: ema_decay was 0.9, is 0.0; "
        "model.quantizer.codebook_size was 16, is 32; "
        "optimizer.discriminator.clip_norm was 1.0, is 0.0: "
        "set them back, or name another --workdir"
    )


def test_settings_that_differ_from_the_run_that_is_resumed_are_logged(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    config = tiny.config(num_steps=6).unlock()
    config.optimizer.tokenizer.learning_rate = 1e-3
    build.build_run(config, tmp_path / "run").run.close()
    assert [(e["step"], e["event"], e["message"]) for e in read_events(tmp_path / "run")] == [
        (4, "setting", "num_steps was 4, is 6"),
        (4, "setting", "optimizer.tokenizer.learning_rate was 0.0001, is 0.001"),
    ]
    assert load_config(tmp_path / "run").num_steps == 6


def test_workdir_and_export_give_the_same_tokenizer(finished):
    workdir, state = finished
    images = tiny.images(3)[:, :16]
    by_workdir, by_export = vqlab.load(workdir), vqlab.load(workdir / "export")
    indices = by_workdir.encode(images)
    assert indices.shape == (3, 2, 4, 2) and indices.dtype == np.int32
    np.testing.assert_array_equal(by_export.encode(images), indices)
    np.testing.assert_array_equal(by_export.decode(indices), by_workdir.decode(indices))
    jax.tree.map(np.testing.assert_array_equal, by_export.params, state.ema["tokenizer"])


def test_a_workdir_computes_in_float32_whatever_it_trains_in(finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints")
    config = load_config(finished[0])
    config.model.encoder.dtype = config.model.decoder.dtype = "bfloat16"
    save_config(config, tmp_path)
    for dtype, expected in ((None, "float32"), ("config", "bfloat16"), ("bfloat16", "bfloat16")):
        assert vqlab.load(tmp_path, dtype=dtype).module.encoder.dtype == expected


def test_decoding_one_group_ignores_the_others(finished):
    tokenizer = vqlab.load(finished[0])
    indices = tokenizer.encode(tiny.images(2))
    other = indices.copy()
    other[..., 1] = (other[..., 1] + 1) % tokenizer.codebook_size
    one = tokenizer.decode(indices, num_groups=1)
    np.testing.assert_array_equal(tokenizer.decode(other, num_groups=1), one)
    assert not np.array_equal(tokenizer.decode(other), tokenizer.decode(indices))
    assert one.min() >= -1 and one.max() <= 1


def test_uint8_images_are_encoded_as_floats(finished):
    tokenizer = vqlab.load(finished[0])
    images_u8 = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    as_float = images_u8.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(tokenizer.encode(images_u8), tokenizer.encode(as_float))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(np.zeros((1, 30, 32, 3))), "images of 30x32: .* multiples of 8"),
        (lambda t: t.encode(np.zeros((32, 32, 3))), r"images \(32, 32, 3\) must be"),
        (lambda t: t.encode(np.full((1, 32, 32, 3), 255.0)), r"images lie in \[255, 255\]"),
        (lambda t: t.encode(np.full((1, 32, 32, 3), np.nan)), r"images lie in \[nan, nan\]"),
        (lambda t: t.decode(np.full((1, 4, 4, 2), 16)), r"indices lie in \[16, 16\]; .* \[0, 15\]"),
        (lambda t: t.decode(np.full((1, 4, 4, 2), -1)), r"indices lie in \[-1, -1\]"),
        (lambda t: t.decode(np.zeros((1, 4, 4, 3), int)), r"indices \(1, 4, 4, 3\) must be"),
        (lambda t: t.decode(np.zeros((1, 4, 4, 2))), "indices must be integers, not float"),
        (lambda t: t.decode(np.zeros((1, 4, 4, 2), int), num_groups=3), "3"),
    ],
)
def test_wrong_arrays_are_named_before_anything_compiles(finished, call, message):
    with pytest.raises(ValueError, match=message):
        call(vqlab.load(finished[0]))


BLOCKED = ("optax", "orbax", "grain", "tensorflow_datasets", "clu", "skimage", "sklearn")


def test_an_export_loads_without_data_and_optimizer_libraries(finished):
    script = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None
import numpy as np, vqlab
tokenizer = vqlab.load({str(finished[0] / "export")!r})
indices = tokenizer.encode(np.zeros((1, 32, 32, 3), np.float32))
print(tokenizer.decode(indices, num_groups=1).shape)
"""
    done = run_python("-c", script)
    assert done.stdout.strip() == "(1, 32, 32, 3)", done.stderr


def run_python(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_new_run_starts_from_given_weights(finished, tmp_path):
    workdir, state = finished
    training = build.build_run(tiny.config(init_from=str(workdir)), tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        training.run.state.params["tokenizer"],
        state.ema["tokenizer"],
    )
    assert int(training.run.state.step) == 0
    other = tiny.config(init_from=str(workdir)).unlock()
    other.model.quantizer.codebook_size = 32
    with pytest.raises(ValueError, match="holds another model than config.model"):
        build.build_run(other, tmp_path / "other")


def test_broken_exports_are_named(finished, tmp_path):
    node, params, variables = exports.load(finished[0] / "export")
    path = exports.save(tmp_path / "a", node, params, variables)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is truncated or no exported tokenizer"):
        vqlab.load(path)
    missing = {k: v for k, v in params.items() if k != "quant_conv"}
    path = exports.save(tmp_path / "b", node, missing, variables)
    with pytest.raises(ValueError, match="missing: params/quant_conv/bias"):
        vqlab.load(path)
    with pytest.raises(ValueError, match="is no workdir"):
        vqlab.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is an exported folder, not a workdir: give it as --sou"):
        load_config(path)


def test_evaluate_prints_numbers_beside_their_protocol(finished, tmp_path):
    shapes = lpips.param_shapes()
    weights = jax.tree.map(np.ones, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    lpips_weights.save_lpips(tmp_path / "lpips.safetensors", weights)
    done = run_python(
        "-m",
        "vqlab.evaluate",
        f"--workdir={finished[0]}",
        "--step=latest",
        f"--lpips_weights={tmp_path / 'lpips.safetensors'}",
    )
    assert done.returncode == 0, done.stderr
    rows = {row.split()[0]: row for row in reversed(done.stdout.splitlines()) if row}
    assert "of the mean MSE over all images" in rows["reconstruction/psnr"]
    assert "VGG-16" in rows["reconstruction/lpips"]


WRONG_FLAGS = {
    "": "--config must have a value",
    "--config=configs/mgvq_f16.py:group=8": "unknown config argument 'group'",
    f"{F16} --config.model.quantizer.groups=8": "no such setting: 'groups'",
    f"{F16} --config.model.quantiser.num_groups=8": "no such setting: 'quantiser'",
    f"{F16} --config.batch_size.x=2": "no such setting: batch_size.x",
    f"{F16} --config.batch_size=x": "batch_size=x",
}
# One interpreter for all: each command line is read in a copy of the process.
READ_FLAGS = """
import os, sys
import vqlab.main
from vqlab.host import cli
for line in sys.argv[1:]:
    sys.stderr.flush()
    if not (child := os.fork()):
        sys.argv = ["vqlab.main", "--workdir=/nowhere", *line.split()]
        cli._parse_flags(sys.argv)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_wrong_flags_are_one_line_and_exit_code_2():
    done = run_python("-c", READ_FLAGS, *WRONG_FLAGS)
    assert done.stdout.split() == ["2"] * len(WRONG_FLAGS), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for line, message in zip(lines, WRONG_FLAGS.values(), strict=True):
        assert message in line


def test_commands_end_with_one_line_and_exit_code_2_and_have_help(tmp_path):
    """Real interpreters; what else a setting may be is said in test_build."""
    done = run_python("-m", "vqlab.main", F16, f"--workdir={tmp_path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--config.data.name=folder" in done.stderr
    shown = run_python("-m", "vqlab.tokenize", "--help").stdout
    assert "--config: Config file" in shown and "--coordinator_address: " in shown
