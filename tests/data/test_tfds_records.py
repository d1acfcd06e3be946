import io
import pathlib
import pickle
import re
import sys

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vqlab.data import CenterCrop, build_source, eval_batches
from vqlab.data.tfds_records import TfdsSource

DOC = pathlib.Path(__file__).parents[2] / "docs" / "tfds.md"


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format=None),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(5):
            mode, colour = ("L", 50 * number) if number == 4 else ("RGB", (50 * number, 0, 255))
            file = io.BytesIO()
            Image.new(mode, (12, 10), colour).save(file, "PNG")
            file.seek(0)
            yield number, {"image": file, "label": number % 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("tfds"))
    TinyPhotos(data_dir=where, file_format="array_record").download_and_prepare()
    return where


def test_reads_array_record_without_tensorflow(data_dir):
    source = build_source("tfds", dataset="tiny_photos", split="train", data_dir=data_dir)
    (batch,) = eval_batches(source, CenterCrop(10), 5)
    corners = batch["images"][:, 0, 0].astype(int)
    expected = {0: (0, 0, 255), 1: (50, 0, 255), 2: (100, 0, 255), 3: (150, 0, 255)}
    expected[4] = (200, 200, 200)
    found = {tuple(corner): label for corner, label in zip(corners, batch["labels"], strict=True)}
    assert found == {colour: number % 3 for number, colour in expected.items()}
    assert source.num_classes == 3
    assert "tensorflow" not in sys.modules


def test_reopens_itself_in_workers(data_dir):
    source = TfdsSource("tiny_photos", "train[:2]", data_dir)
    (entry,) = source.entries(2)
    assert entry.name == "tiny_photos/1.0.0 [5]" and f"{entry.size}".isdigit()
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 2
    assert copy[1] == source[1]
    assert copy.name(1) == "tiny_photos train[:2] record 1"


@pytest.mark.parametrize("dataset", ["imagenet2012", "imagenet2012:5.0.0", "no_such_set"])
def test_unprepared_says_how_in_three_lines(tmp_path, dataset):
    with pytest.raises(ValueError) as caught:
        TfdsSource(dataset, "train", str(tmp_path))
    missing, prepare, folder = str(caught.value).split("\n")
    assert dataset in missing
    assert str(tmp_path) in missing
    assert "in an environment of its own (docs/tfds.md): pip install tensorflow-cpu" in prepare
    (install,) = re.findall("pip install .*? &&", prepare)
    assert install.removesuffix(" &&") in DOC.read_text()
    assert "--file_format=array_record" in prepare
    assert ("ILSVRC2012_img_train.tar" in prepare) == dataset.startswith("imagenet")
    assert "--config.data.name=folder --config.data.path=DIR" in folder


def test_unknown_split_and_bad_name(data_dir):
    with pytest.raises(ValueError, match=r"no split 'test'; known: \['train'\]"):
        TfdsSource("tiny_photos", "test", data_dir)
    with pytest.raises(ValueError, match="cannot open tfds data set 'Not a name!'"):
        TfdsSource("Not a name!", "train", data_dir)
