"""Evaluators meet their data before anything compiles."""

import functools

import numpy as np
import pytest
from PIL import Image

from configs import _common, kl_vae_f16, mgvq_f16, mgvq_gpt_b, semanticist_gpt_l, semanticist_l
from tests import tiny
from tests.evaluation import features
from tests.filled import filled
from vqlab import models
from vqlab.evaluation.evaluators import EvaluationError, run_evaluators
from vqlab.models.codec import Weights
from vqlab.runs import parts
from vqlab.runs.evals import build_evaluators, protocol_node
from vqlab.training import sharding


def evaluators_on(path, **changes):
    """The evaluators of the tiny Semanticist, whose config has them all, on a folder."""
    config = tiny.semanticist_config().unlock()
    config.data.update(name="folder", path=str(path))
    config.evals.probe.update(fit_split="train", limit=0, tile_size=0)
    config.update_from_flattened_dict(changes)
    mesh = sharding.make_mesh(-1, 1)

    def read_source(split, arrays=()):
        return parts.build_source(config.data, split, arrays)

    codec = models.build(config.model).codec(parts.build_sampling(config))
    return build_evaluators(config, codec, mesh, (), read_source)


def write(folder, *names, content=None):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), len(name), np.uint8)).save(path)
        if content is not None:
            path.write_bytes(content)


def test_a_folder_without_classes_has_no_probe_and_one_image_no_components(tmp_path, caplog):
    write(tmp_path, "train/a.png", "validation/a.png", "validation/b.png")
    built = evaluators_on(tmp_path)
    assert set(built) == {"explained_variance", "reconstruction", "spectrum"}
    left_out = [message for message in caplog.messages if " is left out: " in message]
    assert sorted(message.split(" is left out: ")[0] for message in left_out) == [
        "evaluation 'pca'",
        "evaluation 'probe'",
    ]
    assert "the train split has 1 of the 2 images that it needs" in caplog.text


def test_classes_in_both_splits_have_all_evaluators(tmp_path, caplog):
    write(tmp_path, *(f"{split}/{c}/a.png" for split in ("train", "validation") for c in "xy"))
    assert set(evaluators_on(tmp_path)) == {
        "explained_variance",
        "pca",
        "probe",
        "reconstruction",
        "spectrum",
    }
    assert "is left out" not in caplog.text
    # One image of two is fitted then, and one scored.
    assert "probe" not in evaluators_on(tmp_path, **{"evals.probe.fit_split": "validation"})


def test_a_missing_split_that_only_one_evaluator_reads_is_named(tmp_path):
    write(tmp_path, "validation/a.png")
    with pytest.raises(ValueError, match="no train images: looked for"):
        evaluators_on(tmp_path)


def test_validation_images_of_which_none_can_be_read_end_with_one_line(tmp_path):
    write(tmp_path, "train/a.png", "train/b.png")
    write(tmp_path, "validation/a.png", content=b"no picture")
    built = evaluators_on(tmp_path)
    with pytest.raises(EvaluationError, match="none of the images of the validation split"):
        run_evaluators({"pca": built["pca"]}, {}, {})


def fid_config(path, weights="given"):
    """The option `fid` of the published configs, on a folder."""
    config = tiny.config().unlock()
    _common.add_fid(config, image_size=32, batch_size=8)
    config.data.update(name="folder", path=str(path))
    config.inception_weights = weights
    del config.evals.reconstruction
    return config


def fid_evaluators(config, networks, workdir):
    codec = models.build(config.model).codec(None)
    read_source = functools.partial(parts.build_source, config.data)
    mesh = sharding.make_mesh(-1, 1)
    return build_evaluators(config, codec, mesh, networks, read_source, workdir=workdir)


def test_fid_while_training_keeps_its_reference_in_the_workdir(tmp_path, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments[-1])
        return features.features_of(*arguments)

    features.stand_in(monkeypatch, counted)
    write(tmp_path / "data", *(f"val/{name}.png" for name in "abc"), "train/a.png")
    config = fid_config(tmp_path / "data")
    networks = {"inception": {"fc": {"bias": np.zeros(1, np.float32)}}}
    module = models.build(config.model)
    weights = Weights(filled(module.init, tiny.images(1, 32)), {})
    values = []
    for _ in range(2):  # as a run that resumes
        built = fid_evaluators(config, networks, tmp_path / "run")
        values.append(run_evaluators(built, weights, networks))
        assert set(values[-1]) == {f"fid/clean/{name}" for name in ("fid", "kid", "num_images")}
    assert values[0] == values[1] and len(calls) == 2 + 1
    assert [p.name for p in (tmp_path / "run/references/fid").iterdir()] == ["adm_clean.npz"]
    write(tmp_path / "data", "val/dd.png")  # another image: the file is of others now
    run_evaluators(fid_evaluators(config, networks, tmp_path / "run"), weights, networks)
    assert len(calls) == 3 + 2


def test_fid_without_weights_is_one_line(tmp_path):
    write(tmp_path, "val/a.png", "val/b.png", "train/a.png")
    with pytest.raises(ValueError, match="fid needs the weights of Inception .*inception_weights"):
        fid_evaluators(fid_config(tmp_path, ""), {}, tmp_path / "run")
    for config in (mgvq_f16, semanticist_l, kl_vae_f16, mgvq_gpt_b, semanticist_gpt_l):
        assert config.get_config("fid,debug").evals.fid.image_size < 256
        assert "fid" not in config.get_config().evals


def test_protocols_take_the_place_of_a_configs_evaluators():
    node = protocol_node(tiny.config(), "mgvq,adm", measures="psnr", limit=0, image_size=0).evals
    assert list(node) == ["protocols"]
    assert node.protocols.to_dict() == {
        "name": "protocols",
        "protocols": "mgvq,adm",
        "measures": "psnr",
        "image_size": 32,
        "tile_size": 0,
        "batch_size": 8,
        "limit": 8,
    }
