"""TiTok from its configs to images: both stages, exported, loaded, tokenized, converted."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vqlab
from configs import titok_s128
from tests import tiny
from tests.filled import filled
from tests.test_seams import go_the_whole_way
from tests.test_training_run import run_until
from vqlab import convert, models
from vqlab.export import official
from vqlab.export.torch_weights import write_state_dict
from vqlab.runs import build, trainer
from vqlab.runs.results import read_results


def config_of(stage, **changes):
    """The debug config of a stage, smaller still: one block, four tokens of 16-pixel images."""
    config = titok_s128.get_config(f"{stage},debug").unlock()
    for part in (config.model.encoder, config.model.decoder):
        part.update(image_size=16, patch_size=2, depth=1, width=16, num_tokens=4, dtype="float32")
    for node in _pixel_nodes(config.model):
        node.update(widths=(32, 32), latent_channels=4, dtype="float32")
    config.num_steps, config.image_size = 2, 16
    config.intervals.update(log=1, evaluate=0, checkpoint=2)
    for node in config.evals.values():
        node.update(image_size=16, limit=8)
    if "discriminator" in config:
        config.discriminator.num_layers = 1
    config.update_from_flattened_dict(changes)
    return config.lock()


def _pixel_nodes(model):
    """The node with the sizes of the pixel tokenizer, where there is one."""
    node = model.get("pixel_tokenizer")
    return [] if node is None else [node.get("network", node)]


@pytest.fixture(scope="module")
def pixel_file(tmp_path_factory):
    """A released file of a pixel tokenizer of the debug configs' size, of random weights."""
    network = models.build(config_of("stage1").model.pixel_tokenizer.network)
    variables = filled(network.init, tiny.images(1, network.example_side))
    path = tmp_path_factory.mktemp("pixels") / "maskgit-vqgan.npz"
    write_state_dict(path, official.to_state(variables))
    return str(path)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory, pixel_file):
    """(workdir, loaded export, records) of a finished run of the first stage."""
    path = tmp_path_factory.mktemp("stage1")
    config = config_of("stage1", **{"objective.pixel_tokenizer_weights": pixel_file})
    return path / "run", *go_the_whole_way(config, path)


def test_the_first_stage_goes_the_whole_way(stage1, pixel_file):
    workdir, loaded, records = stage1
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
    kept = loaded.weights.frozen["pixel_tokenizer"]
    given = vqlab.export.frozen.NETWORKS["pixel_tokenizer"].read(pixel_file, network)
    jax.tree.map(np.testing.assert_array_equal, kept, given)


def test_the_second_stage_begins_with_the_first_and_its_pixel_tokenizer(stage1, tmp_path):
    workdir, loaded, _ = stage1
    training = build.build_run(config_of("stage2", init_from=str(workdir)), tmp_path)
    state = training.run.state
    params = jax.device_get(state.params["tokenizer"])
    ours = flatten_dict(params.pop("pixel_tokenizer"), sep="/")
    kept = flatten_dict(loaded.weights.frozen["pixel_tokenizer"]["params"], sep="/")
    assert {name.partition("/")[0] for name in ours} == {"codebook", "decoder"}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, kept[name])
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(loaded.params))
    moments = jax.tree_util.tree_leaves_with_path(state.opt_state["tokenizer"])
    paths = [jax.tree_util.keystr(path) for path, _ in moments]
    assert any("'decoder'" in path for path in paths)
    assert not any("'encoder'" in path or "'quantizer'" in path for path in paths)
    training.run.close()


@pytest.mark.slow
def test_the_second_stage_trains_the_decoders_alone(stage1, tmp_path):
    workdir, loaded, _ = stage1
    config = config_of("stage2", init_from=str(workdir))
    training, state = run_until(config, tmp_path / "run", 2)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, tmp_path / "run", training, state)
    training.run.close()
    for name, array in flatten_dict(jax.device_get(state.params["tokenizer"]), sep="/").items():
        if name.startswith(("encoder/", "quantizer/")):
            np.testing.assert_array_equal(array, flatten_dict(loaded.params, sep="/")[name])
    after = vqlab.load(tmp_path / "run" / "export")
    before = flatten_dict(loaded.params, sep="/")["decoder/head_fc2/kernel"]
    assert np.abs(after.params["decoder"]["head_fc2"]["kernel"] - before).max() > 0
    images = tiny.images(2, 16)
    np.testing.assert_array_equal(after.encode(images), loaded.encode(images))


@pytest.mark.slow
def test_pixels_need_no_outside_weights_and_go_the_whole_way(tmp_path):
    loaded, records = go_the_whole_way(config_of("pixels"), tmp_path)
    assert loaded.encode(tiny.images(2, 16)).shape == (2, 4, 1)
    assert records[0]["indices"].shape == (4, 1)
