"""TiTok from its configs to images: both stages, exported, loaded, tokenized, converted."""

import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vqlab
from configs import _titok, titok_b64, titok_l32, titok_s128
from tests import exports, tiny, tiny_titok
from tests.filled import filled
from tests.test_seams import go_the_whole_way
from tests.test_training_run import run_until
from vqlab import convert, data, models
from vqlab.export import official, package
from vqlab.export.frozen import NETWORKS
from vqlab.export.torch_weights import write_state_dict
from vqlab.runs import build, estimate, precompute, train_state, trainer
from vqlab.runs.results import read_results
from vqlab.training import sharding
from vqlab.training.objectives import TOKENIZER
from vqlab.training.step import TrainState


def random_weights(node):
    """(params, other collections, frozen variables) of a node."""
    module = models.build(node)

    def fill(module):
        return filled(module.init, tiny.images(1, module.example_side))

    variables = dict(fill(module))
    frozen = {name: fill(part) for name, part in module.frozen_parts().items()}
    return jax.device_get((variables.pop("params"), variables, frozen))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    """(export of a first stage, released file of its pixel tokenizer), of random weights."""
    path = tmp_path_factory.mktemp("stage1")
    node = tiny_titok.node("stage1")
    params, variables, frozen = random_weights(node)
    exports.save(path / "export", node, params, variables, frozen=frozen)
    write_state_dict(path / "maskgit-vqgan.npz", official.to_state(frozen["pixel_tokenizer"]))
    return path / "export", path / "maskgit-vqgan.npz"


def begin(config):
    """Variables that the config's run begins with; nothing compiles."""
    network = models.build(config.model)
    others = package.abstract_variables(network)
    params = others.pop("params")
    abstract = TrainState(None, {TOKENIZER: params}, {TOKENIZER: others}, {}, {})
    return train_state.given_variables(config, network, abstract, TOKENIZER)


def test_the_second_stage_begins_with_the_first_and_its_pixel_tokenizer(stage1):
    given = begin(tiny_titok.config("stage2", init_from=str(stage1[0])))
    stored = package.load_package(stage1[0]).weights
    pixels = dict(given["params"]).pop("pixel_tokenizer")
    kept = stored.frozen["pixel_tokenizer"]["params"]
    assert pixels.keys() == {"codebook", "decoder"}
    for name, tree in pixels.items():
        jax.tree.map(np.testing.assert_array_equal, tree, kept[name])
    for name, tree in stored.variables["params"].items():
        jax.tree.map(np.testing.assert_array_equal, tree, given["params"][name])
    finished = re.compile(titok_s128.get_config().optimizer.tokenizer.frozen).fullmatch
    paths = filter(finished, flatten_dict(given["params"], sep="/"))
    assert {path.partition("/")[0] for path in paths} == {"encoder", "quantizer"}


def test_what_the_second_stage_cannot_begin_with_is_named(tmp_path):
    config = tiny_titok.config("stage2")
    with pytest.raises(ValueError, match="^stage 2 of TiTok trains no encoder: set --config.init_"):
        build.build_run(config, tmp_path / "none")
    node = tiny_titok.node("pixels")
    params, variables, _ = random_weights(node)
    exports.save(tmp_path / "pixels", node, params, variables)
    with pytest.raises(ValueError) as error:
        begin(tiny_titok.config("stage2", init_from=str(tmp_path / "pixels")))
    text = str(error.value)
    assert "holds another model than config.model: it lacks params/decoder/head_fc1/bias" in text
    assert "params/decoder/to_patches" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("stage1", {}, "set --config.objective.pixel_tokenizer_weights=maskgit-vqgan"),
        ("pixels", {"image_size": 32}, "image_size=32 is not the model's image size 16, for wh"),
        (
            "pixels",
            {"evals.reconstruction.image_size": 32},
            "evals.reconstruction.image_size=32 is not the model's image size 16",
        ),
        (
            "pixels",
            {"evals.reconstruction.piece_size": 8},
            "evals.reconstruction.piece_size=8 is not the model's image size 16",
        ),
        ("stage2", {"optimizer.tokenizer.frozen": "encode"}, "matches the path of no parameter"),
    ],
)
def test_wrong_settings_are_named_before_anything_compiles(stage, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        build.build_run(tiny_titok.config(stage, **changes), tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_pixel_tokenizer_of_another_size_is_named(stage1):
    network = models.build(tiny_titok.node("stage1")["pixel_tokenizer"]["network"])
    with pytest.raises(ValueError, match="encoder.conv_out.weight .4, 32, 1, 1. instead of .5, 32"):
        NETWORKS["pixel_tokenizer"].read(str(stage1[1]), network.clone(latent_channels=5))


def test_official_files_go_out_and_come_in(stage1, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "from tests import tiny_titok\n"
        "def get_config(argument):\n"
        "    return tiny_titok.config(argument)\n"
    )
    out, pixels = tmp_path / "titok.safetensors", tmp_path / "pixels.safetensors"
    convert.main(["to-official", str(stage1[0]), str(out), f"--latents={pixels}"])
    back = ["from-official", str(out), str(tmp_path / "back"), f"--config={config}:stage1"]
    convert.main([*back, f"--latents={pixels}"])
    before, after = (package.load_package(path) for path in (stage1[0], tmp_path / "back"))
    params = [weights.variables["params"] for _, weights, _ in (before, after)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    jax.tree.map(np.testing.assert_array_equal, before.weights.frozen, after.weights.frozen)
    capsys.readouterr()
    for command, message in (
        (back, "decoding takes a frozen pixel tokenizer: give its file as --latents=FILE"),
        ([*back[:3], f"--config={config}:stage2"], "missing: pixel_decoder.conv_in.bias"),
        ([*back[:3], f"--config={config}:pixels"], "the weights are of the legacy form"),
    ):
        with pytest.raises(SystemExit):
            convert.main(command)
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_options_of_the_configs():
    whole, second = titok_s128.get_config(), titok_s128.get_config("stage2")
    assert whole.to_dict() == second.to_dict()
    for module in (titok_s128, titok_b64, titok_l32):
        assert module.get_config("pixels,debug").num_steps <= 8
    with pytest.raises(ValueError, match="stage1 and pixels are different runs: choose one"):
        titok_b64.get_config("pixels,stage1")
    with pytest.raises(ValueError, match="unknown size 'XL'; choose from S, B, L"):
        _titok.model("XL", 32, "pixels")


@pytest.mark.slow
@pytest.mark.parametrize("stage", _titok.STAGES)
def test_published_configs_trace_at_full_size(stage):
    config = titok_s128.get_config(stage).copy_and_resolve_references().unlock()
    if stage != "stage1":
        config.objective.lpips_weight = 0.0
    program = estimate.trace_step(config, jax.devices())
    assert program.batch["images"].shape == (256, 256, 256, 3)
    if stage == "stage1":
        program = estimate.trace_step(config, jax.devices(), precomputed=True)
        assert program.batch["pixel_codes"].shape == (256, 16, 16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, stage1):
    """(workdir, loaded export, records) of a finished run of the first stage."""
    path = tmp_path_factory.mktemp("run")
    changes = {"objective.pixel_tokenizer_weights": str(stage1[1])}
    config = tiny_titok.config("stage1", **changes)
    return path / "run", *go_the_whole_way(config, path)


@pytest.mark.slow
def test_the_first_stage_goes_the_whole_way(finished, stage1):
    workdir, loaded, records = finished
    assert (loaded.num_tokens, loaded.codebook_size, loaded.image_size) == (4, 64, 16)
    indices = loaded.encode(tiny.images(2, 16))
    assert indices.shape == (2, 4, 1) and records[0]["indices"].shape == (4, 1)
    results = read_results(workdir)
    assert results["reconstruction/bits_per_pixel"] == 4 * 6 / 256
    trained = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"train/cross_entropy", "train/accuracy", "train/usage_g0"} <= set(trained[0])
    card = (workdir / "export" / "README.md").read_text()
    assert "TiTok" in card and "codes of a frozen pixel tokenizer" in card
    network = loaded.module.frozen_parts()["pixel_tokenizer"]
    given = NETWORKS["pixel_tokenizer"].read(str(stage1[1]), network)
    kept = loaded.weights.frozen["pixel_tokenizer"]
    jax.tree.map(np.testing.assert_array_equal, kept, given)


@pytest.mark.slow
def test_the_second_stage_trains_the_decoders_alone(finished, tmp_path):
    workdir, loaded, _ = finished
    config = tiny_titok.config("stage2", init_from=str(workdir))
    training, state = run_until(config, tmp_path / "run", 2)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, tmp_path / "run", training, state)
    training.run.close()
    before = flatten_dict(loaded.params, sep="/")
    for name, array in flatten_dict(jax.device_get(state.params["tokenizer"]), sep="/").items():
        if name.startswith(("encoder/", "quantizer/")):
            np.testing.assert_array_equal(array, before[name])
    after = vqlab.load(tmp_path / "run" / "export")
    head = np.asarray(after.params["decoder"]["head_fc2"]["kernel"])
    assert np.abs(head - before["decoder/head_fc2/kernel"]).max() > 0
    images = tiny.images(2, 16)
    np.testing.assert_array_equal(after.encode(images), loaded.encode(images))


@pytest.mark.slow
def test_pixels_need_no_outside_weights_and_go_the_whole_way(tmp_path):
    larger = {"evals.reconstruction.image_size": 32, "evals.reconstruction.piece_size": 16}
    loaded, records = go_the_whole_way(tiny_titok.config("pixels", **larger), tmp_path)
    assert loaded.encode(tiny.images(2, 16)).shape == (2, 4, 1)
    results = read_results(tmp_path / "run")
    assert results["reconstruction/bits_per_pixel"] == 4 * 6 / 256
    assert records[0]["indices"].shape == (4, 1)


@pytest.mark.slow
def test_codes_are_made_once_and_trained_from(stage1, tmp_path):
    changes = {"objective.pixel_tokenizer_weights": str(stage1[1])}
    config = tiny_titok.config("stage1", **changes)
    job = precompute.Job(
        "latents",
        precompute.build_encoder("latents", config, None, "float32"),
        sharding.make_mesh(1, 1, devices=jax.devices()[:1]),
        config,
        "train",
        tmp_path / "records",
        data.CenterViews(config.image_size),
        batch_size=2,
        records_per_shard=4,
    )
    job.begin()
    job.write()
    codes = data.RecordArrays(str(tmp_path / "records"), "train")[0]["pixel_codes"]
    assert codes.shape == (8, 8) and 0 <= codes.min() <= codes.max() < 32
    changes |= {"data.name": "records", "data.path": str(tmp_path / "records")}
    config = tiny_titok.config("stage1", **changes).unlock()
    config.evals, config.checkpoint.best_metric = {}, ""
    training, _ = run_until(config, tmp_path / "run", 1)
    assert "pixel_codes" in next(iter(training.run.batches))
    training.run.close()
