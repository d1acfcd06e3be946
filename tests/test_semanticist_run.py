"""Semanticist from its config to images: trained, resumed, exported, loaded, converted."""

import json
import re

import jax
import numpy as np
import pytest

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from tests.test_training_run import run_until
from vqlab import convert, models
from vqlab.export import package
from vqlab.export.kl_weights import read_kl
from vqlab.runs import build, comparison, trainer
from vqlab.runs.workdir import save_config

CONFIG = """
from tests import tiny

def get_config(argument=""):
    return tiny.semanticist_config()
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps on a 2x4 mesh: (workdir, state on the host)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = tiny.semanticist_config()
    training, state = run_until(config, workdir, 4)
    others = {"another run": {"reconstruction/first_1/psnr": 11.0}}
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state, others)
    return workdir, jax.device_get(state)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A model of random parameters, all of which matter, as an exported folder."""
    module, variables = tiny.semanticist()
    path = tmp_path_factory.mktemp("random")
    params = variables.pop("params")
    sampling = {"num_steps": 2, "guidance_scale": 1.5}
    exports.save(path, tiny.semanticist_node(), params, variables, sampling=sampling)
    return vqlab.load(path)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(finished, tmp_path):
    config = tiny.semanticist_config()
    first, _ = run_until(config, tmp_path, 2)
    first.run.close()
    _, resumed = run_until(config, tmp_path, 4)
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path)),
        finished[1],
        jax.device_get(resumed),
    )


def test_the_report_has_every_analysis(finished):
    workdir, _ = finished
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    for name in (
        "reconstruction/first_1/psnr",
        "reconstruction/first_4/ssim",
        "reconstruction/mean_image/psnr",
        "explained_variance/first_2/share",
        "spectrum/semantic_spectrum_coupling",
        "probe/first_1/probe_accuracy",
    ):
        assert name in results
    assert any(re.match(r"pca/components_\d+/psnr", name) for name in results)
    page = (workdir / "report.html").read_text()
    for heading in ("spectrum", "probe", "Explained variance", "PCA"):
        assert heading.lower() in page.lower()
    metrics = (workdir / "metrics.jsonl").read_text()
    assert '"train/mse"' in metrics and '"train/vb"' in metrics


def test_workdir_and_export_give_the_same_model(finished):
    workdir, state = finished
    images = tiny.images(2, 16)
    by_workdir, by_export = vqlab.load(workdir), vqlab.load(workdir / "export")
    concepts = by_workdir.encode(images)
    assert concepts.shape == (2, 4, 4) and concepts.dtype == np.float32
    np.testing.assert_array_equal(by_export.encode(images), concepts)
    assert by_export.sampling == by_workdir.sampling
    np.testing.assert_array_equal(by_export.decode(concepts), by_workdir.decode(concepts))
    jax.tree.map(np.testing.assert_array_equal, by_export.params, state.ema["tokenizer"])


def test_decoding_some_concepts_ignores_the_others(tokenizer):
    concepts = tokenizer.encode(tiny.images(2, 16))
    other = concepts.copy()
    other[:, 2:] = 5.0
    two = tokenizer.decode(concepts, num_concepts=2)
    assert two.shape == (2, 16, 16, 3) and two.min() >= -1 and two.max() <= 1
    np.testing.assert_array_equal(tokenizer.decode(other, num_concepts=2), two)
    assert not np.array_equal(tokenizer.decode(other), tokenizer.decode(concepts))


def test_decoding_follows_its_settings(tokenizer):
    concepts = tokenizer.encode(tiny.images(1, 16))
    base = tokenizer.decode(concepts)
    np.testing.assert_array_equal(tokenizer.decode(concepts, guidance_scale=1.5, seed=0), base)
    only_first = {"guidance_schedule": "interval", "guidance_interval": (0.9, 1.0)}
    for settings in (
        only_first,
        {"guidance_scale": 3.0},
        {"num_steps": 3},
        {"seed": 1},
        {"sampler": "ddim"},
    ):
        assert not np.array_equal(tokenizer.decode(concepts, **settings), base), settings


def test_images_of_another_size_are_encoded(tokenizer):
    assert tokenizer.encode(tiny.images(1, 24)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, c: t.decode(c, num_concepts=5), "num_concepts=5 is out of range: choose 0..4"),
        (lambda t, c: t.decode(c, guidance_scale=-1.0), "guidance_scale=-1.0 must be finite"),
        (lambda t, c: t.decode(c, guidance_scale=np.inf), "guidance_scale=inf must be finite"),
        (lambda t, c: t.decode(c, num_steps=0), "num_steps=0 is out of range: choose 2..1000"),
        (lambda t, c: t.decode(c, num_steps=1001), "num_steps=1001 is out of range"),
        (lambda t, c: t.decode(c, sampler="heun"), "unknown sampler 'heun'; choose from"),
        (lambda t, c: t.decode(c, guidance_schedule="up"), "unknown guidance schedule 'up'"),
        (
            lambda t, c: t.decode(c, guidance_interval=(0.8, 0.2)),
            r"guidance_interval=\(0.8, 0.2\) must be two ascending",
        ),
        (lambda t, c: t.decode(c[:, :3]), r"concepts \(1, 3, 4\) must be \[B, 4, 4\]"),
        (lambda t, c: t.decode(c * np.nan), "concepts hold NaN"),
        (lambda t, c: t.encode(np.zeros((1, 12, 16, 3))), "images of 12x16: .* multiples of 8"),
    ],
)
def test_bad_input_is_one_clear_line(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer, np.zeros((1, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 24}, "image_size=24 is not the model's image size 16"),
        ({"evals.reconstruction.image_size": 32}, "evals.reconstruction.image_size=32 is not"),
        ({"sampling.num_steps": 5000}, "num_steps=5000 is out of range"),
        ({"sampling.guidance_scale": -2.0}, "guidance_scale=-2.0"),
        ({"sampling.sampler": "heun"}, "unknown sampler 'heun'"),
        ({"model.decoder.repa_dim": 768}, "REPA needs the weights of DINOv2"),
        ({"model.encoder.num_concepts": 5}, "num_concepts is 5, the decoder's 4"),
        ({"objective.null_share": 2.0}, "null_share=2.0 is no share"),
        ({"data.name": "records"}, "the records have no path"),
    ],
)
def test_wrong_settings_are_named_before_anything_compiles(changes, message, tmp_path):
    config = tiny.semanticist_config()
    config.unlock().update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build.build_run(config, tmp_path)


def test_an_autoencoder_without_weights_is_named(tmp_path):
    config = _latent_config()
    with pytest.raises(ValueError, match="set --config.objective.latent_weights"):
        build.build_run(config, tmp_path)


def test_a_model_on_latents_carries_its_autoencoder(tmp_path, capsys):
    """Trained with an exported KL autoencoder, and loaded from the export alone."""
    autoencoder = tiny_kl.autoencoder()
    params = filled(autoencoder.init, tiny.images(1, 16))["params"]
    exports.save(tmp_path / "kl", tiny_kl.node(), params, {})
    kl = vqlab.load(tmp_path / "kl")
    assert kl.decode(kl.encode(tiny.images(1, 16))).shape == (1, 16, 16, 3)
    config = _latent_config().unlock()
    config.objective.latent_weights = str(tmp_path / "kl")
    training, state = run_until(config, tmp_path / "run", 1)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, tmp_path / "run", training, state)
    config.objective.lpips_weights = "/nowhere"  # gone since; only training needed it
    save_config(config, tmp_path / "run")
    loaded = vqlab.load(tmp_path / "run")
    kept = loaded.weights.frozen["latent_space"]["params"]
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    (tmp_path / "kl" / package.WEIGHTS_FILE).unlink()
    convert.main(["export", str(tmp_path / "run" / "export"), str(tmp_path / "copy")])
    loaded = vqlab.load(tmp_path / "copy")
    assert loaded.sampling["num_steps"] == config.sampling.num_steps
    kept = loaded.weights.frozen["latent_space"]["params"]
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    assert loaded.decode(loaded.encode(tiny.images(1, 16))).shape == (1, 16, 16, 3)
    files = [str(tmp_path / name) for name in ("official.npz", "autoencoder.npz")]
    convert.main(["to-official", str(tmp_path / "copy"), files[0], f"--latents={files[1]}"])
    assert capsys.readouterr().out.splitlines()[-2:] == files
    jax.tree.map(np.testing.assert_array_equal, read_kl(files[1], autoencoder), params)


def _latent_config():
    node = tiny.semanticist_node()
    node["decoder"] |= {"latent_size": 8, "in_channels": 4, "out_channels": 8, "patch_size": 4}
    node["latent_space"] = {"name": "autoencoder_space", "autoencoder": tiny_kl.node()}
    config = tiny.semanticist_config(model=node).unlock()
    del config.evals
    config.evals = {}
    config.checkpoint.best_metric = ""
    config.num_steps, config.optimizer.tokenizer.warmup_steps = 1, 0
    return config.lock()


def test_to_official_and_back_gives_the_same_model(tokenizer, tmp_path, capsys):
    source, official, config = (tmp_path / n for n in ("source", "model.safetensors", "config.py"))
    exports.save(source, tokenizer.node, jax.device_get(tokenizer.params), tokenizer.variables)
    config.write_text(CONFIG)
    convert.main(["to-official", str(source), str(official)])
    convert.main(["from-official", str(official), str(tmp_path / "back"), f"--config={config}"])
    assert capsys.readouterr().out.splitlines() == [str(official), str(tmp_path / "back")]
    before, after = (exports.load(path) for path in (source, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, before[1:], after[1:])
    assert vqlab.load(tmp_path / "back").sampling["num_steps"] == 2


def test_an_official_file_of_another_model_lists_what_differs(tokenizer, tmp_path, capsys):
    source, official, config = (tmp_path / n for n in ("source", "model.safetensors", "config.py"))
    node = tiny.semanticist_node()
    node["decoder"] = node["decoder"] | {"depth": 1}
    module = models.build(node)
    variables = filled(module.init, tiny.images(1, 16))
    exports.save(source, node, variables.pop("params"), variables)
    config.write_text(CONFIG)
    convert.main(["to-official", str(source), str(official)])
    with pytest.raises(SystemExit):
        convert.main(["from-official", str(official), str(tmp_path / "b"), f"--config={config}"])
    assert "missing: dit.blocks.1." in capsys.readouterr().err


def test_curves_of_several_runs_are_one_table():
    runs = {
        "nested": {"reconstruction/first_1/psnr": 15.0, "reconstruction/first_16/psnr": 20.0},
        "mgvq": {"reconstruction/first_1/psnr": 21.5, "reconstruction/psnr": 22.0},
    }
    lines = comparison.format_curves(runs).splitlines()
    assert lines[0] == "reconstruction/psnr by number kept"
    assert lines[1].split() == ["1", "16"]
    assert [line.split() for line in lines[2:]] == [["nested", "15", "20"], ["mgvq", "21.5"]]
    assert comparison.format_curves({"nothing": {}}) == ""
    with pytest.raises(ValueError, match="evaluate that run first"):
        comparison.read_comparison("/run", ["/nowhere"])
    with pytest.raises(ValueError, match=r"told apart by their folder's name; twice: \['run'\]"):
        comparison.read_comparison("/a/run", ["/b/run/"])
