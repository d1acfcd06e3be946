"""The tokenize command: what it stores is what the networks make of the stored crops."""

import contextlib
import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from vqlab import data, models
from vqlab.export import frozen
from vqlab.models.pretrained.dinov2 import DINOv2
from vqlab.runs import build, estimate, parts, precompute
from vqlab.training import sharding
from vqlab.training.objectives import concept_diffusion

ROOT = pathlib.Path(__file__).parent.parent
COUNT = 8  # of the photographs in the training split


def export(folder, node):
    """A package of random weights."""
    module = models.build(node)
    side = module.image_size if node["name"] == "semanticist" else 32
    variables = dict(filled(module.init, tiny.images(1, side)))
    params = variables.pop("params")
    return exports.save(folder, node, *jax.device_get((params, variables)))


@pytest.fixture(scope="module")
def latent_config(tmp_path_factory):
    """A tiny Semanticist on the latents of a tiny autoencoder with random weights."""
    from configs import semanticist_l

    config = semanticist_l.get_config("debug").unlock()
    config.model.latent_space = {
        "name": "autoencoder_space",
        "scaling_factor": 0.5,
        "autoencoder": tiny_kl.node(),
    }
    config.model.decoder.update(latent_size=16, in_channels=4, out_channels=8, patch_size=2)
    autoencoder = export(tmp_path_factory.mktemp("autoencoder"), tiny_kl.node())
    config.objective.latent_weights = str(autoencoder)
    return config


@pytest.fixture(scope="module")
def latents(latent_config):
    """What makes the latents, compiled once."""
    return precompute.build_encoder("latents", latent_config, None, "float32")


def job(config, output, encoder, what="latents", *, overwrite=False, **changes):
    """A begun job on the training photographs; `changes` are of its views and settings."""
    views = {"flip": False, "num_random": 0} | {
        name: changes.pop(name) for name in ("flip", "num_random", "ten_crop") if name in changes
    }
    made = precompute.Job(
        what,
        encoder,
        sharding.make_mesh(-1, 1, devices=jax.local_devices()),
        config,
        "train",
        output,
        precompute.build_views(config, "train", **views),
        **{"batch_size": 8, "records_per_shard": 8} | changes,
    )
    made.begin(overwrite=overwrite)
    return made


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "train").iterdir()}


def test_latents_are_the_moments_of_the_stored_crops(latent_config, latents, tmp_path):
    manifest = job(latent_config, tmp_path, latents, flip=True).write()
    assert (manifest.num_records, len(manifest.shards)) == (2 * COUNT, 2)
    assert manifest.views == {"crop": "center", "flip": True}
    source = data.RecordSource(str(tmp_path), "train")
    records = [source[number] for number in range(len(source))]
    space = models.build(latent_config.model).latent_space
    autoencoder = latents.weights["latent_space"]
    images = data.to_float(np.stack([record["image"] for record in records]))
    moments = jax.jit(space.moments)(autoencoder, images)
    np.testing.assert_allclose(
        np.stack([record["moments"] for record in records]), moments, atol=2e-5
    )
    # The photographs differ, and so do a photograph and its mirror image.
    assert len({record["moments"].tobytes() for record in records}) == 2 * COUNT
    parts.check_source(latent_config, source, parts.build_objective(latent_config), latents.weights)


def test_plan_compiles_what_training_from_records_runs(latent_config, latents, tmp_path):
    job(latent_config, tmp_path / "records", latents).write()
    config = latent_config.copy_and_resolve_references().unlock()
    config.data.update(name="records", path=str(tmp_path / "records"), validation_split="train")
    del config.evals
    config.evals = {}
    config.mesh.update(data=2, fsdp=4)
    training = build.build_run(config, tmp_path / "run")
    planned = estimate.trace_step(config, jax.devices(), precomputed=True).traced.lower().as_text()
    with jax.set_mesh(training.mesh), contextlib.closing(training.run) as run:
        batch = run.to_device(next(run.batches))
        assert {name: array.dtype.name for name, array in batch.items()} == {
            "images": "uint8",
            "moments": "float32",
        }
        assert run.train_step.lower(run.state, run.frozen, batch).as_text() == planned


def test_a_killed_job_goes_on_and_ends_the_same(latent_config, latents, tmp_path):
    straight = job(latent_config, tmp_path / "straight", latents, num_random=3).write()
    assert len(straight.shards) == 3
    assert (straight.views["crop"], straight.views["num_views"]) == ("random", 3)
    killed = job(latent_config, tmp_path / "killed", latents, num_random=3)
    read = killed._batches.read

    def read_one_shard(shards):
        yield next(read(shards))
        raise KeyboardInterrupt

    killed._batches.read = read_one_shard
    with pytest.raises(KeyboardInterrupt):
        killed.write()
    with pytest.raises(ValueError, match="are unfinished"):
        data.RecordSource(str(tmp_path / "killed"), "train")
    assert job(latent_config, tmp_path / "killed", latents, num_random=3).write() == straight
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_another_autoencoder_does_not_add_to_the_records(latent_config, latents, tmp_path):
    job(latent_config, tmp_path, latents, limit=2).write()
    before = contents(tmp_path)
    config = latent_config.copy_and_resolve_references()
    node, params, variables = exports.load(config.objective.latent_weights)
    params["encoder"]["middle"]["attention"]["q"]["bias"] += 1
    other = exports.save(tmp_path / "other", node, params, variables)
    config.objective.latent_weights = str(other)
    encoder = precompute.build_encoder("latents", config, None, "float32")
    with pytest.raises(ValueError, match=r"another job \(fields.moments.fingerprint was "):
        job(config, tmp_path, encoder, limit=2)
    with pytest.raises(ValueError, match=r"another job \(views.flip was False, now True"):
        job(latent_config, tmp_path, latents, limit=2, flip=True)
    assert contents(tmp_path) == before
    job(config, tmp_path, encoder, limit=2, overwrite=True)
    assert list(contents(tmp_path)) == ["manifest.json"]


def test_latents_that_are_not_finite_are_not_stored(latent_config, latents, tmp_path):
    broken = jax.tree.map(lambda array: np.full_like(array, np.nan), latents.weights)
    with pytest.raises(
        data.RecordFileError, match="record 0 is not written: its moments holds NaN"
    ):
        job(latent_config, tmp_path, latents._replace(weights=broken)).write()


def test_repa_features_lie_beside_the_moments_or_alone(latent_config, tmp_path, monkeypatch):
    small = functools.partial(DINOv2, width=16, depth=1, num_heads=2, image_size=28, resolution=28)
    monkeypatch.setattr(concept_diffusion, "repa_teacher", small)
    repa = filled(small().init, tiny.images(1))
    teacher = frozen.NETWORKS["repa"]._replace(read=lambda path, module: repa)
    monkeypatch.setitem(frozen.NETWORKS, "repa", teacher)
    config = latent_config.copy_and_resolve_references().unlock()
    config.model.decoder.repa_dim = 16
    config.objective.repa_weights = "dinov2.pth"
    encoder = precompute.build_encoder("latents", config, None, "float16")
    fields = job(config, tmp_path / "both", encoder, limit=2).write().fields
    assert (fields["moments"].dtype, fields["moments"].shape) == ("float16", (16, 16, 8))
    assert fields["repa_features"].made_by == "DINOv2"
    source = data.RecordSource(str(tmp_path / "both"), "train")
    batch = next(data.train_batches(source, data.StoredCrop(32), 2, seed=0))
    expected = jax.jit(small().apply)(repa, data.to_float(batch["images"]))
    assert batch["repa_features"].dtype == np.float16
    np.testing.assert_allclose(batch["repa_features"], expected, atol=2e-3)
    from configs import semanticist_l

    pixels = semanticist_l.get_config("debug").unlock()
    with pytest.raises(ValueError, match="nothing to precompute for this semanticist"):
        precompute.build_encoder("latents", pixels, None, "float32")
    pixels.model.decoder.repa_dim = 16
    pixels.objective.repa_weights = "dinov2.pth"
    made_by = precompute.build_encoder("latents", pixels, None, "float32").made_by
    assert list(made_by) == ["repa_features"]


def test_concepts_of_a_trained_semanticist(tmp_path):
    from configs import semanticist_l

    config = semanticist_l.get_config("debug")
    path = export(tmp_path / "export", config.model.to_dict())
    encoder = precompute.build_encoder("concepts", config, path, "float32")
    job(config, tmp_path, encoder, "concepts").write()
    source = data.RecordSource(str(tmp_path), "train")
    images = np.stack([source[number]["image"] for number in range(COUNT)])
    stored = np.stack([source[number]["concepts"] for number in range(COUNT)])
    assert stored.shape == (COUNT, 8, 8)
    assert source.manifest.tokenizer == {"num_concepts": 8, "concept_dim": 8, "image_size": 32}
    job(config, tmp_path / "bare", encoder, "concepts", images="none").write()
    bare = data.RecordArrays(str(tmp_path / "bare"))
    assert [bare[number]["concepts"].tobytes() for number in range(COUNT)] == [
        concepts.tobytes() for concepts in stored
    ]
    np.testing.assert_allclose(stored, vqlab.load(path).encode(images), atol=1e-4)
    with pytest.raises(ValueError, match=r"makes concepts \(Semanticist\) and no indices"):
        precompute.build_encoder("indices", config, path, "float32")


@pytest.fixture(scope="module")
def mgvq(tmp_path_factory):
    """An exported MGVQ with random weights."""
    return export(tmp_path_factory.mktemp("mgvq"), tiny.tokenizer_node())


def test_indices_without_images_are_packed(mgvq, tmp_path):
    config = tiny.config()
    encoder = precompute.build_encoder("indices", config, mgvq, "float32")
    make = functools.partial(job, config, encoder=encoder, what="indices")
    manifest = make(tmp_path / "bare", images="none").write()
    assert manifest.tokenizer == {"codebook_size": 16, "num_groups": 2, "stride": 8}
    assert (manifest.images, manifest.fields["indices"].bits) == ("none", 4)
    make(tmp_path / "whole").write()
    bare, whole = (data.RecordArrays(str(tmp_path / name)) for name in ("bare", "whole"))
    assert bare.manifest.tokenizer == whole.manifest.tokenizer
    for number in range(COUNT):
        np.testing.assert_array_equal(bare[number]["indices"], whole[number]["indices"])
        assert bare[number]["label"] == number
    ten = make(tmp_path / "ten", ten_crop=(1.1, 1.05), limit=1).write()
    assert (ten.num_records, ten.num_views) == (20, 20)
    views, photo = data.TenCropViews(32, (1.1, 1.05)), data.build_source("photos")[0]["image"]
    crop, stored = views.of_image(photo, 0), data.RecordSource(str(tmp_path / "ten"))
    for number in range(20):
        np.testing.assert_array_equal(stored[number]["image"], crop(number))
    assert len({stored[number]["indices"].tobytes() for number in range(20)}) > 10
    with pytest.raises(ValueError, match=r"\(fields.indices.bits was 4, now None; images was none"):
        make(tmp_path / "bare")


def test_exchanged_images_are_refused(mgvq, tmp_path):
    config = tiny.config().unlock()
    config.data.update(name="folder", path=str(tmp_path / "images"))
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(tmp_path / f"images/{number}.png")
    encoder = precompute.build_encoder("indices", config, mgvq, "float32")
    make = functools.partial(job, config, tmp_path / "records", encoder, "indices")
    written = make().write()
    assert make().write() == written
    before = contents(tmp_path / "records")
    Image.new("RGB", (40, 40), (1, 250, 99)).save(tmp_path / "images/1.png")
    os.utime(tmp_path / "images/1.png", (1000, 1000))
    with pytest.raises(ValueError, match="whose files have changed since|of other images"):
        make()
    assert contents(tmp_path / "records") == before
    make(overwrite=True).write()
    assert contents(tmp_path / "records") != before


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "vqlab.tokenize", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_stores_the_indices_of_both_splits(mgvq, tmp_path):
    done = run(
        "--config=configs/mgvq_demo.py",
        "--config.image_size=32",
        "--what=indices",
        f"--source={mgvq}",
        f"--output={tmp_path / 'records'}",
        "--batch_size=2",
        "--records_per_shard=6",
    )
    assert done.returncode == 0, done.stderr
    assert f"records   {tmp_path / 'records'}" in done.stderr
    tokenizer = vqlab.load(mgvq)
    for split, count in (("train", 8), ("validation", 2)):
        source = data.build_source("records", path=str(tmp_path / "records"), split=split)
        assert (len(source), source.num_classes) == (count, count)
        records = [source[number] for number in range(count)]
        assert [record["label"] for record in records] == list(range(count))
        indices = tokenizer.encode(np.stack([record["image"] for record in records]))
        stored = np.stack([record["indices"] for record in records])
        assert stored.shape == (count, 4, 4, 2) and stored.dtype == np.int32
        # Two batch sizes round differently: a codeword that is as near may win.
        assert (stored == indices).mean() > 0.98
    assert [
        shard.num_records for shard in data.read_manifest(tmp_path / "records", "train").shards
    ] == [6, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/semanticist_l.py"], "--config.objective.latent_weights"),
        (["--config=configs/mgvq_demo.py", "--what=pictures"], "what=pictures"),
        (["--what=indices", "--source=MGVQ"], "--config must say which images"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(mgvq, tmp_path, arguments, message):
    arguments = [word.replace("MGVQ", str(mgvq)) for word in arguments]
    done = run(*arguments, f"--output={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_settings_that_cannot_work_are_named(mgvq, tmp_path):
    config = tiny.config()
    encoder = precompute.build_encoder("indices", config, mgvq, "float32")
    make = functools.partial(job, config, tmp_path, encoder, "indices")
    for changes, message in (
        ({"batch_size": 12}, "batch_size=12 does not divide over 8 devices"),
        ({"records_per_shard": 12}, "records_per_shard=12 is no multiple of batch_size=8"),
        ({"flip": True, "num_random": 2}, "flip and views=2 exclude each other"),
        ({"ten_crop": (1.1,), "num_random": 2}, "views=2 and ten_crop exclude each other"),
        ({"images": "jpeg"}, "images='jpeg' is none of webp, none"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**changes)
    with pytest.raises(ValueError, match="beside their images; leave out images=none"):
        job(config, tmp_path, encoder, "latents", images="none")
    for what, source, message in (
        ("tokens", mgvq, "cannot make 'tokens'; choose from latents, indices"),
        ("latents", None, "nothing to precompute for this tokenizer: no frozen network"),
        ("indices", None, "indices need a trained tokenizer: give --source"),
        ("concepts", mgvq, r"makes indices \(MGVQ\) and no concepts"),
    ):
        with pytest.raises(ValueError, match=message):
            precompute.build_encoder(what, config, source, "float32")


def test_flags_to_train_from_the_records():
    config = tiny.config()
    where = pathlib.Path("/records")
    plain = ["--config.data.name=records", "--config.data.path=/records"]
    assert precompute.training_flags(config, where) == plain
    config.data.train_split = "train[:10%]"
    assert precompute.training_flags(config, where) == [*plain, "--config.data.train_split=train"]
