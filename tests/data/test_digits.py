import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vqlab.data.digits import DigitSource


@pytest.fixture(scope="module")
def splits():
    return {split: DigitSource(split) for split in ("train", "validation")}


def test_every_digit_is_in_one_split(splits):
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 1437,
        "validation": 360,
    }
    names = [{source.name(i) for i in range(len(source))} for source in splits.values()]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 1797


def test_digits_are_enlarged_inside_a_margin_and_labelled(splits):
    digits = load_digits()
    record = splits["validation"][3]
    assert splits["validation"].name(3) == "digit 15" and record["label"] == digits.target[15]
    image = record["image"]
    assert (image.shape, image.dtype) == ((40, 40, 3), np.uint8)
    assert (image == image[..., :1]).all() and not image[:2].any() and not image[:, -2:].any()
    # Every fifth pixel of an enlarged one stands for a pixel of the original.
    small = image[..., 0].reshape(10, 4, 10, 4).mean((1, 3))[1:-1, 1:-1]
    assert np.corrcoef(small.ravel(), digits.images[15].ravel())[0, 1] > 0.97


def test_both_splits_have_all_classes(splits):
    for source in splits.values():
        assert {source[i]["label"] for i in range(100)} == set(range(source.num_classes))


def test_pickles_without_pixels(splits):
    assert len(pickle.dumps(splits["validation"])) < 5000


def test_unknown_split():
    with pytest.raises(ValueError, match="no split 'test'; known"):
        DigitSource("test")
