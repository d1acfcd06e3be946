"""A second stage from its config to images: trained, resumed, loaded, sampled, handed on."""

import json

import jax
import numpy as np
import pytest

import vqlab
from tests import exports, tiny
from tests.filled import filled
from tests.test_training_run import run_until
from vqlab.runs import trainer
from vqlab.runs.results import read_results


def save_tokenizer(path, seed=0):
    """The tiny tokenizer with random weights, as an exported folder."""
    variables = filled(tiny.tokenizer().init, tiny.images(1, 16), seed=seed)
    params = variables.pop("params")
    exports.save(path, tiny.tokenizer_node(), params, variables)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "export")


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    """A finished run of four steps on a 2x4 mesh: (workdir, state on the host)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = tiny.generator_config(tokenizer)
    training, state = run_until(config, workdir, 4)
    with jax.set_mesh(training.mesh):
        trainer.finish(config, workdir, training, state)
    return workdir, jax.device_get(state)


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(finished, tokenizer, tmp_path):
    config = tiny.generator_config(tokenizer)
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
    assert 0 < results["likelihood/bits_per_index"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss/generator" in line and "train/nll_g1" in line for line in lines)
    page = (workdir / "report.html").read_text()
    assert "class 7" in page and "generator.generate(" in page


def test_workdir_and_export_give_the_same_generator(finished):
    workdir, state = finished
    by_workdir, by_export = vqlab.load(workdir), vqlab.load(workdir / "export")
    images = by_workdir.generate([0, 7], guidance_scale=1.5)
    assert images.shape == (2, 16, 16, 3) and images.dtype == np.float32
    np.testing.assert_array_equal(by_export.generate([0, 7], guidance_scale=1.5), images)
    jax.tree.map(np.testing.assert_array_equal, by_export.params, state.ema["generator"])
