"""Workdirs and exports of an earlier version, which keep working.

golden/before_the_seams.tar.xz holds, of each method, a run stopped at step 2 of 4 and an export of
the same run at its end, with what they made of images then.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vqlab
from tests.test_training_run import run_until
from vqlab.runs import trainer
from vqlab.runs.results import read_results
from vqlab.runs.workdir import load_config

GOLDEN = Path(__file__).parent / "golden" / "before_the_seams.tar.xz"
METHODS = ("mgvq", "kl", "semanticist")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """(folder of the archive's content, what was made then by name)."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    with np.load(folder / "before.npz") as arrays:
        return folder, dict(arrays)


@pytest.fixture(autouse=True)
def beside_the_autoencoder(before, monkeypatch):
    """The Semanticist's config names its autoencoder by a relative path."""
    monkeypatch.chdir(before[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["", "export_"])
def test_they_load_and_decode_to_the_same_pixels(before, method, kind):
    folder, made = before
    tokenizer = vqlab.load(folder / (f"{method}_export" if kind else method))
    code = tokenizer.encode(made[f"{method}/images"])
    expected = made[f"{method}/{kind}code"]
    if method == "mgvq":
        np.testing.assert_array_equal(code, expected)
    np.testing.assert_allclose(code, expected, rtol=1e-4, atol=1e-5)
    pixels = tokenizer.decode(expected)
    np.testing.assert_allclose(pixels, made[f"{method}/{kind}pixels"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_they_resume_where_they_stopped(before, method):
    folder, made = before
    config = load_config(folder / method).lock()
    training, state = run_until(config, folder / method, 4)
    assert int(state.step) == 4
    lines = [json.loads(x) for x in (folder / method / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss/tokenizer"] for line in lines if "train/loss/tokenizer" in line]
    np.testing.assert_allclose(losses, made[f"{method}/loss"], rtol=1e-3)
    if training.evaluators:
        with jax.set_mesh(training.mesh):
            trainer.finish(config, folder / method, training, state)
        assert read_results(folder / method)["reconstruction/psnr"] > 0
    training.run.close()


def test_a_workdir_is_whole_once_it_was_resumed(before, tmp_path, monkeypatch):
    """It moves to another machine with what its decoder needs."""
    folder, made = before
    assert (folder / "semanticist" / "frozen" / "latent_space.safetensors").exists()
    moved = (folder / "semanticist").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    tokenizer = vqlab.load(moved, step=2)
    pixels = tokenizer.decode(made["semanticist/code"])
    np.testing.assert_allclose(pixels, made["semanticist/pixels"], rtol=1e-3, atol=1e-4)
