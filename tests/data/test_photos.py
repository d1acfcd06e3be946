import pickle

import pytest

from vqlab.data.photos import PhotoSource


def test_every_photograph_is_in_the_wheels_with_its_size():
    train, validation = PhotoSource("train"), PhotoSource("validation")
    sizes = [source[i]["image"].size for source in (train, validation) for i in range(len(source))]
    assert sizes == [
        (512, 512),
        (451, 300),
        (1000, 872),
        (512, 512),
        (741, 500),
        (1411, 1411),
        (640, 427),
        (640, 427),
        (600, 400),
        (640, 427),
    ]


def test_splits_share_no_photograph():
    train, validation = PhotoSource("train"), PhotoSource("validation")
    names = [{source.name(i) for i in range(len(source))} for source in (train, validation)]
    assert (len(names[0]), len(names[1])) == (8, 2)
    assert not names[0] & names[1]


def test_pickles_without_pixels():
    assert len(pickle.dumps(PhotoSource("train"))) < 5000


def test_unknown_split():
    with pytest.raises(ValueError, match="no split 'test'; known"):
        PhotoSource("test")
