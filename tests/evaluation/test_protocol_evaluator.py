"""Reconstructions measured by protocols, on stub features."""

import logging

import jax
import numpy as np
import pytest

from tests.evaluation import features, stubs
from vqlab.evaluation.frechet import frechet_distance
from vqlab.evaluation.kernel_distance import kernel_distance
from vqlab.evaluation.moments import Moments
from vqlab.evaluation.paired import mean_psnr
from vqlab.evaluation.protocol_evaluator import ProtocolEvaluator
from vqlab.evaluation.set_measures import POOLED
from vqlab.evaluation.statistics_file import ReferenceCache

CODEC = stubs.codec_of(stubs.autoencoder())
IMAGES = stubs.images(7)
FROZEN = {"inception": {}}


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch):
    features.stand_in(monkeypatch)


def by_crop(asked):
    """Batches of the images, and of darker ones for another crop than ADM's; notes what is read."""

    def make_batches(split, crop="adm"):
        asked.append(crop)
        return stubs.batches(IMAGES if crop == "adm" else 0.9 * IMAGES)(split)

    return make_batches


def run(asked, **arguments):
    evaluator = ProtocolEvaluator(CODEC, by_crop(asked), networks=("inception",), **arguments)
    return evaluator, evaluator.measure(stubs.weights_of(CODEC.module), FROZEN)


def reconstructed(images):
    weights = stubs.weights_of(CODEC.module)
    code = jax.jit(CODEC.encode)(weights, images)
    return np.asarray(jax.jit(CODEC.decode)(weights, code, 1, jax.random.key(0)))


def pooled(images, preparation):
    return features.features_of(None, images, preparation)[POOLED]


def test_each_protocol_measures_as_it_says():
    asked = []
    evaluator, results = run(asked, protocols="clean,semanticist", measures="fid,kid,psnr")
    assert asked == ["adm", "torchvision"]  # one pass for both, one over the other's reference
    made = reconstructed(IMAGES)
    unit = (np.clip(made, -1, 1) + 1) / 2
    samples = {
        "clean": pooled(np.rint(unit * 255), "clean"),
        "semanticist": pooled(np.floor(unit * 255 + 1e-3), "tf1"),
    }
    references = {
        "clean": pooled(np.rint((IMAGES + 1) * 127.5), "clean"),
        "semanticist": pooled(np.rint((0.9 * IMAGES + 1) * 127.5), "tf1"),
    }
    for name, rows in samples.items():
        sides = [Moments.of(x) for x in (references[name], rows)]
        expected = frechet_distance(*(x for m in sides for x in (m.mean, m.covariance)))
        np.testing.assert_allclose(results[f"{name}/fid"], expected, rtol=1e-4)
        kid = kernel_distance(rows, references[name], estimate="u-statistic")
        np.testing.assert_allclose(results[f"{name}/kid"], kid, rtol=1e-4)
        assert results[f"{name}/num_images"] == 7
        assert evaluator.protocol[f"{name}/fid"].startswith(f"{name}: ")
        assert "biased upwards, of 7 images" in evaluator.protocol[f"{name}/fid"]
    mse = np.square((made - IMAGES) / 2).mean((1, 2, 3))
    np.testing.assert_allclose(results["semanticist/psnr"], mean_psnr(mse, "batches"), rtol=1e-5)
    assert results["clean/psnr"] >= results["semanticist/psnr"]  # clipped


def test_of_few_images_kid_stands_beside_fid(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vqlab"), "propagate", True)
    _, results = run([], measures="fid")
    assert set(results) == {"clean/fid", "clean/kid", "clean/num_images"}
    assert "clean: fid is biased upwards, of 7 images, fewer than 2048: look at KID" in caplog.text


def test_without_inception_only_pairs_are_measured(caplog):
    evaluator = ProtocolEvaluator(CODEC, stubs.batches(IMAGES), protocols="mgvq")
    results = evaluator.measure(stubs.weights_of(CODEC.module), {})
    assert set(results) == {"mgvq/psnr", "mgvq/ssim", "mgvq/num_images"}
    with pytest.raises(ValueError, match="fid needs the weights of Inception"):
        ProtocolEvaluator(CODEC, stubs.batches(IMAGES), measures=("fid",))
    with pytest.raises(ValueError, match="unknown measure 'fad'; choose from fid, sfid"):
        ProtocolEvaluator(CODEC, stubs.batches(IMAGES), measures="fad")
    with pytest.raises(ValueError, match="unknown protocol 'dirty'; choose from mgvq"):
        ProtocolEvaluator(CODEC, stubs.batches(IMAGES), protocols="dirty")


def test_levels_have_numbers_of_their_own():
    codec = stubs.codec_of(stubs.grouped_tokenizer())
    evaluator = ProtocolEvaluator(codec, stubs.batches(IMAGES), measures=("psnr",), levels=True)
    results = evaluator.measure(stubs.weights_of(codec.module), {})
    assert set(results) >= {"clean/psnr", "first_1/clean/psnr"}
    assert "groups kept: first 1" in evaluator.protocol["first_1/clean/psnr"]


def test_references_are_worked_out_once_and_known_again(tmp_path):
    facts = {"source": "a"}
    arguments = {"protocols": "semanticist", "measures": "fid", "cache": None}
    first, again, other = [], [], []
    for asked, seen in ((first, facts), (again, facts), (other, {"source": "b"})):
        arguments["cache"] = ReferenceCache(tmp_path / "references", seen)
        _, results = run(asked, **arguments)
        assert "semanticist/fid" in results
    assert first == other == ["adm", "torchvision"] and again == ["adm"]
