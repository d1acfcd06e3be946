import logging

import pytest

from tests.data.test_folder import save
from vqlab.data.decode import Decoding
from vqlab.data.photos import PhotoSource
from vqlab.data.sources import build_source


def test_builds_by_name():
    source = build_source("photos", split="validation")
    assert isinstance(source, PhotoSource)
    assert source.num_classes == 2


def test_unknown_names_and_arguments():
    with pytest.raises(ValueError, match="'imagenet'; choose from photos, digits, folder, tf"):
        build_source("imagenet")
    with pytest.raises(ValueError, match="'photos': got an unexpected keyword argument 'path'"):
        build_source("photos", path="x")


def test_what_is_in_a_source_is_said_once(tmp_path, caplog):
    save(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/c.png")
    (tmp_path / "train" / "list.csv").touch()
    decoding = Decoding(alpha="white")
    with caplog.at_level(logging.INFO):
        for split in ("train", "validation", "train"):
            source = build_source("folder", path=str(tmp_path), split=split, decoding=decoding)
            assert source.decoding == decoding
    assert [record.getMessage() for record in caplog.records] == [
        f"left out in {tmp_path}/train, no images: 1 .csv",
        f"train: 2 images, 2 classes, in {tmp_path}/train",
        f"validation: 1 images, without labels, in {tmp_path}/val",
    ]
