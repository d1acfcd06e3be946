"""A second stage from its config to images: trained, resumed, loaded, sampled, handed on."""

import json
import shutil

import jax
import numpy as np
import pytest

import vqlab
from configs import semanticist_gpt_l
from tests import tiny, tiny_generator
from tests.test_training_run import run_until
from vqlab import data
from vqlab.export.files import load_file, save_arrays
from vqlab.export.fingerprint import fingerprint
from vqlab.runs import build, estimate, precompute, trainer
from vqlab.runs.results import read_results
from vqlab.training import sharding


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of an exported tokenizer with random weights."""
    path = tmp_path_factory.mktemp("tokenizer") / "export"
    return tiny_generator.save(path, tiny_generator.index_tokenizer())


@pytest.fixture(scope="module")
def records(tokenizer, tmp_path_factory):
    """Its indices of the photographs."""
    path = tmp_path_factory.mktemp("records")
    write_records(tokenizer, path)
    return path


def write_records(tokenizer, path, images="webp"):
    config = tiny_generator.config(tokenizer)
    encoder = precompute.build_encoder("indices", config, tokenizer, "float32")
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    for split in ("train", "validation"):
        views = data.CenterViews(8)
        sizes = {"batch_size": 4, "records_per_shard": 4, "images": images}
        job = precompute.Job("indices", encoder, mesh, config, split, path, views, **sizes)
        job.begin()
        job.write()


def recorded(config, path, name="records"):
    """The config on these records."""
    with config.unlocked():
        config.data.update(name=name, path=str(path))
    return config


def without_samples(tokenizer):
    """Drawing on a mesh takes a fifth of a run's time to compile; tests/test_generate.py draws."""
    config = tiny_generator.config(tokenizer).unlock()
    del config.evals["samples"]
    return config.lock()


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    """A finished run of four steps on a 2x4 mesh: (workdir, state on the host)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = without_samples(tokenizer)
    training, state = run_until(config, workdir, 4)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state)
    training.run.close()
    return workdir, jax.device_get(state)


@pytest.mark.slow
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(finished, tokenizer, tmp_path):
    config = without_samples(tokenizer)
    first, _ = run_until(config, tmp_path, 2)
    first.run.close()
    _, resumed = run_until(config, tmp_path, 4)
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path)),
        finished[1],
        jax.device_get(resumed),
    )


def test_the_workdir_explains_itself(finished):
    workdir, _ = finished
    results = read_results(workdir)
    bits = [results[f"likelihood/bits_per_index{group}"] for group in ("", "_g0", "_g1")]
    assert 3 < bits[0] < 6 and bits[0] == pytest.approx((bits[1] + bits[2]) / 2)
    of_image = results["likelihood/bits_per_dimension"]
    assert of_image == pytest.approx(bits[0] * 16 * 2 / (3 * 8 * 8))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss/generator" in line and "train/nll_g1" in line for line in lines)
    page = (workdir / "report.html").read_text()
    for text in ("Likelihood", "generator.generate(", "Loss of the generator", "over MGVQ"):
        assert text in page
    card = (workdir / "export" / "README.md").read_text()
    assert "pipeline_tag: unconditional-image-generation" in card
    assert "generator = vqlab.load(" in card and "- image-generator" in card


def test_workdir_and_export_are_whole_and_the_same(finished, tokenizer):
    workdir, state = finished
    by_workdir, by_export = vqlab.load(workdir), vqlab.load(workdir / "export")
    jax.tree.map(np.testing.assert_array_equal, by_export.params, state.ema["generator"])
    jax.tree.map(np.testing.assert_array_equal, by_export.weights, by_workdir.weights)
    own = vqlab.load(tokenizer).weights.variables
    jax.tree.map(np.testing.assert_array_equal, by_export.weights.frozen["tokenizer"], own)
    saved = json.loads((workdir / "export" / "config.json").read_text())
    mark = fingerprint(tiny_generator.index_tokenizer(), own)
    assert saved["fingerprints"] == {"tokenizer": mark}


def test_another_tokenizer_is_refused(finished, tokenizer, records, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    other = tiny_generator.save(tmp_path / "other", tiny_generator.index_tokenizer(), seed=1)
    with pytest.raises(ValueError, match="are of another tokenizer: fingerprint .* set it back"):
        build.build_run(tiny_generator.config(other, num_steps=8), workdir)
    config = recorded(tiny_generator.config(other), records)
    with pytest.raises(ValueError, match="records in .* were made by another tokenizer"):
        build.build_run(config, tmp_path / "new")
    for folder in (workdir, workdir / "export"):
        name = "frozen/tokenizer" if folder == workdir else "model"
        file = folder / f"{name}.safetensors"
        arrays = load_file(file)
        key = next(n for n in arrays if n.endswith("codebook") and "params" in n)
        arrays[key] = arrays[key] + 1
        save_arrays(file, arrays)
        with pytest.raises(ValueError, match="holds another tokenizer than it was trained with"):
            vqlab.load(folder)


def test_codes_of_records_are_the_tokenizer_s_and_enough_alone(tokenizer, records, tmp_path):
    """Without a crop beside them the batches are the same."""
    write_records(tokenizer, tmp_path / "bare", images="none")
    batches = []
    for name, path in (("records", records), ("codes", tmp_path / "bare")):
        config = recorded(tiny_generator.config(tokenizer), path, name)
        run = build.build_run(config, tmp_path / name).run
        batches.append(run.to_device(next(run.batches)))
        run.close()
    for key in ("indices", "labels"):
        np.testing.assert_array_equal(batches[1][key], batches[0][key])
    assert batches[1]["images"].shape == (8, 1, 1, 3)
    indices = vqlab.load(tokenizer).encode(np.asarray(batches[0]["images"]))
    np.testing.assert_array_equal(batches[0]["indices"], indices)
    config = tiny.semanticist_config().unlock()
    config.data.update(name="codes", path=str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="hold indices; config.model needs images"):
        build.build_run(config, tmp_path / "semanticist")


def test_wrong_settings_are_one_line_before_anything_compiles(tokenizer, records, tmp_path):
    generator = tiny_generator.save_generator(tmp_path / "gpt", tiny_generator.index_node())
    latents = tiny_generator.save(tmp_path / "semanticist", tiny.semanticist_node())
    manifest = records / "train" / "manifest.json"
    unlabelled = shutil.copytree(records, tmp_path / "unlabelled")
    text = json.loads(manifest.read_text()) | {"num_classes": 0}
    (unlabelled / "train" / "manifest.json").write_text(json.dumps(text))
    for changes, message in (
        ({"objective.tokenizer": ""}, "needs the tokenizer whose codes it makes: set"),
        ({"objective.tokenizer": "/nowhere"}, "/nowhere is no workdir"),
        ({"objective.tokenizer": str(generator)}, "holds a generator: .* takes a tokenizer"),
        ({"objective.tokenizer": str(latents)}, "needs a tokenizer with indices; Semanticist has"),
        ({"model.num_classes": 5}, "of 8 classes, not model.num_classes=5: set --config.model"),
        ({"model.image_size": 16}, "image_size=8 is not the generator's image size 16"),
        ({"model.codewords": "raw"}, "unknown codewords 'raw'; choose from read, stored"),
        ({"model.num_heads": 3}, "width=32 does not split into 3 heads"),
        ({"sampling.top_k": 17}, "top_k=17 is more than the 16 codewords"),
        ({"sampling.guidance_scale": -1.0}, "guidance_scale=-1.0 must be finite"),
        ({"evals.samples.classes": (8,)}, "class 8 does not exist: this generator's are 0..7"),
        ({"data.name": "records", "data.path": str(unlabelled)}, "images have no labels, but"),
    ):
        config = tiny_generator.config(tokenizer)
        config.unlock().update_from_flattened_dict(changes)
        with pytest.raises(ValueError, match=message):
            build.build_run(config.lock(), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a generator, and a tokenizer is needed"):
        precompute.build_encoder("indices", tiny_generator.config(tokenizer), generator, "float32")


def test_evaluators_of_tokenizers_are_refused(tokenizer, tmp_path):
    config = tiny_generator.config(tokenizer).unlock()
    config.evals.quality = config.evals.likelihood.to_dict() | {"name": "spectrum"}
    with pytest.raises(ValueError, match="evals.quality measures a tokenizer by spectrum; this is"):
        build.build_run(config.lock(), tmp_path)


def test_the_plan_takes_no_files():
    config = tiny_generator.config("")
    assert estimate.trace_step(config, jax.devices()).batch["labels"].shape == (8,)


@pytest.mark.slow
def test_concepts_go_the_whole_way(tmp_path):
    config = tiny_generator.config("", semanticist_gpt_l)
    program = estimate.trace_step(config, jax.devices(), precomputed=True)
    assert program.batch["concepts"].shape == (8, 4, 4)
    path = tiny_generator.save(tmp_path / "tokenizer", tiny.semanticist_node())
    config = tiny_generator.config(path, semanticist_gpt_l)
    training, state = run_until(config, tmp_path / "run", 2)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, tmp_path / "run", training, state)
    training.run.close()
    assert read_results(tmp_path / "run")["likelihood/loss"] > 0
    assert "class 7" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "samples.png").exists()
    loaded = vqlab.load(tmp_path / "run" / "export")
    images = loaded.generate([0, 7], num_steps=2)
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
