"""Evaluators meet their data before anything compiles."""

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from vqlab import models
from vqlab.evaluation.evaluators import EvaluationError, run_evaluators
from vqlab.runs import parts
from vqlab.runs.evals import build_evaluators
from vqlab.training import sharding


def evaluators_on(path, **changes):
    """The evaluators of the tiny Semanticist, whose config has them all, on a folder."""
    config = tiny.semanticist_config().unlock()
    config.data.update(name="folder", path=str(path))
    config.evals.probe.update(fit_split="train", limit=0, tile_size=0)
    config.update_from_flattened_dict(changes)
    mesh = sharding.make_mesh(-1, 1)

    def read_source(split):
        return parts.build_source(config.data, split)

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
