"""A second stage from its config to images: trained, resumed, loaded, sampled, handed on."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import vqlab
from configs import semanticist_gpt_l
from tests import commands, seeded_inception, tiny, tiny_generator
from tests.evaluation import features
from tests.test_training_run import run_until
from vqlab import data
from vqlab.data.photos import PhotoSource
from vqlab.export.files import load_file, save_arrays
from vqlab.export.fingerprint import fingerprint
from vqlab.export.torch_weights import write_state_dict
from vqlab.runs import build, estimate, evals, generating, parts, precompute, trainer
from vqlab.runs.results import read_results
from vqlab.runs.workdir import load_config, save_config
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


def write_records(tokenizer, path, **settings):
    config = tiny_generator.config(tokenizer)
    encoder = precompute.build_encoder("indices", config, tokenizer, "float32")
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    for split in ("train", "validation"):
        views = data.CenterViews(8)
        sizes = {"batch_size": 4, "records_per_shard": 4} | settings
        job = precompute.Job("indices", encoder, mesh, config, split, path, views, **sizes)
        job.begin()
        job.write()


def recorded(config, path):
    """The config on these records."""
    with config.unlocked():
        config.data.update(name="records", path=str(path))
    return config


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    """A finished run of four steps on a 2x4 mesh: (workdir, state on the host)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = tiny_generator.config(tokenizer)
    training, state = run_until(config, workdir, 4)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state)
    training.run.close()
    return workdir, jax.device_get(state)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(finished, tokenizer, tmp_path):
    config = tiny_generator.config(tokenizer)
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
    for text in ("class 7", "generator.generate(", "Loss of the generator", "over MGVQ"):
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
    mixed = shutil.copytree(records, tmp_path / "mixed")  # of which the validation split is wrong
    manifest = mixed / "validation" / "manifest.json"
    mark = fingerprint(tiny_generator.index_tokenizer(), vqlab.load(tokenizer).weights.variables)
    manifest.write_text(manifest.read_text().replace(mark, "0" * 16))
    with pytest.raises(ValueError, match="records in .* were made by another tokenizer: .* 0000"):
        build.build_run(recorded(tiny_generator.config(tokenizer), mixed), tmp_path / "new")
    for folder in (workdir, workdir / "export"):
        name = "frozen/tokenizer" if folder == workdir else "model"
        file = folder / f"{name}.safetensors"
        arrays = load_file(file)
        key = next(n for n in arrays if n.endswith("codebook") and "params" in n)
        arrays[key] = arrays[key] + 1
        save_arrays(file, arrays)
        with pytest.raises(ValueError, match="holds another tokenizer than it was trained with"):
            vqlab.load(folder)


def test_codes_of_records_are_those_of_the_tokenizer(tokenizer, records, tmp_path):
    config = recorded(tiny_generator.config(tokenizer), records)
    run = build.build_run(config, tmp_path).run
    batch = run.to_device(next(run.batches))
    run.close()
    assert batch.keys() == {"indices", "labels"}  # images are not read
    source = data.RecordSource(str(records), config.data.train_split)
    images = np.stack([source[number]["image"] for number in range(len(source))])
    codes = vqlab.load(tokenizer).encode(images)
    assert batch["indices"].shape == (8, 4, 4, 2)
    known = {code.tobytes() for code in codes}
    assert all(code.tobytes() in known for code in np.asarray(batch["indices"]))


def test_held_out_codes_are_scored_without_their_images(finished, tokenizer, tmp_path):
    write_records(tokenizer, tmp_path / "bare", images="none")
    config = recorded(tiny_generator.config(tokenizer), tmp_path / "bare")
    training = build.build_run(config, tmp_path / "run")
    training.run.close()
    (batch, *_) = training.evaluators["likelihood"]._make_batches("validation")
    assert batch.keys() == {"indices", "labels", "mask"}
    weights = jax.device_put(vqlab.load(finished[0]).weights, sharding.replicated(training.mesh))
    with jax.set_mesh(training.mesh):
        scores = training.evaluators["likelihood"].measure(weights, {})
    results = read_results(finished[0])
    for name, value in scores.items():  # as those of the images, whose codes these are
        assert value == pytest.approx(results[f"likelihood/{name}"], rel=1e-4)
    with config.unlocked():
        config.evals.fid = config.evals.samples.to_dict() | {"name": "generation"}
        for name in ("classes", "num_per_class"):
            del config.evals.fid[name]
        config.inception_weights = "inception.safetensors"
    networks = {"inception": {}}
    with pytest.raises(ValueError, match="hold no images .* but images are read here; store them"):
        read_source = functools.partial(parts.build_source, config.data)
        evals.build_evaluators(config, training.codec, training.mesh, networks, read_source)


def test_a_finished_run_is_measured_by_protocols(finished, tmp_path, monkeypatch):
    """The whole command, on stub features in the place of Inception's."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    features.stand_in(monkeypatch)
    network = {"inception": {"fc": {"bias": np.zeros(1, np.float32)}}}
    given = {"workdir": str(workdir), "protocol": "adm", "guidance_scale": 1.5, "batch_size": 8}
    with commands.imported("evaluate") as evaluate, flagsaver.flagsaver(**given):
        monkeypatch.setattr(evaluate, "read_networks", lambda *_, **__: network)
        evaluate.main()
    results = read_results(workdir)
    assert results["generation/adm/fid"] > 0
    assert results["generation/adm/num_images"] == 2  # as many as were held out
    assert "likelihood/bits_per_index" in results  # of before
    page = (workdir / "report.html").read_text()
    assert "Samples by protocol" in page and "samples with guidance_scale=1.5<" in page


@pytest.mark.slow
def test_a_run_is_measured_as_training_and_as_its_files_are(finished, tmp_path):
    """Once more as its config says, and with seeded weights of Inception beside the files."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = read_results(workdir)
    weights = tmp_path / "inception.safetensors"
    write_state_dict(weights, seeded_inception.official_state())
    config = load_config(workdir)
    fid = config.evals.samples.to_dict() | {"name": "generation", "measures": "fid,sfid"}
    fid["num_images"] = 8
    config.evals.fid = {n: x for n, x in fid.items() if n not in ("classes", "num_per_class")}
    save_config(config, workdir)
    with (
        commands.imported("evaluate") as evaluate,
        flagsaver.flagsaver(workdir=str(workdir), inception_weights=str(weights)),
    ):
        evaluate.main()
    results = read_results(workdir)
    for name, value in before.items():
        if name.startswith("likelihood/"):
            assert results[name] == pytest.approx(value, rel=1e-4)
    loaded = vqlab.load(workdir)
    numbers = {"classes": (), "num_per_class": 1, "seed": 0, "batch_size": 1}
    job = generating.Job(loaded, loaded.changed(), output=tmp_path / "samples", **numbers)
    job.begin()
    job.write()
    crop = data.CROPS["adm"](8)
    source = PhotoSource("validation")
    (tmp_path / "held_out").mkdir()
    for number in range(len(source)):
        pixels = crop(source[number]["image"], None)
        Image.fromarray(pixels).save(tmp_path / "held_out" / f"{number}.png")
    sides = {"images": tmp_path / "samples/samples.npz", "reference": tmp_path / "held_out"}
    with (
        commands.imported("evaluate") as evaluate,
        flagsaver.flagsaver(
            protocol="adm",
            measures="fid,sfid",
            inception_weights=str(weights),
            output=str(tmp_path / "files.json"),
            **{name: str(path) for name, path in sides.items()},
        ),
    ):
        evaluate.main()
    found = json.loads((tmp_path / "files.json").read_text())["results"]
    for name in ("fid", "sfid", "kid", "num_images"):
        expected = found[f"images/adm/{name}"]["value"]
        assert results[f"fid/adm/{name}"] == pytest.approx(expected, rel=1e-3, abs=1e-5), name


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
    config = tiny_generator.config("", semanticist_gpt_l)
    program = estimate.trace_step(config, jax.devices(), precomputed=True)
    assert program.batch["concepts"].shape == (8, 4, 4)


@pytest.mark.slow
def test_concepts_go_the_whole_way(tmp_path):
    path = tiny_generator.save(tmp_path / "tokenizer", tiny.semanticist_node())
    config = tiny_generator.config(path, semanticist_gpt_l)
    training, state = run_until(config, tmp_path / "run", 2)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, tmp_path / "run", training, state)
    training.run.close()
    assert read_results(tmp_path / "run")["likelihood/loss"] > 0
    loaded = vqlab.load(tmp_path / "run" / "export")
    images = loaded.generate([0, 7], num_steps=2)
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
