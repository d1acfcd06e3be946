import pytest

from vqlab.data.photos import PhotoSource
from vqlab.data.sources import build_source


def test_builds_by_name():
    source = build_source("photos", split="validation")
    assert isinstance(source, PhotoSource)
    assert source.num_classes == 2


def test_unknown_names_and_arguments():
    with pytest.raises(ValueError, match="'imagenet'; known: photos, folder, tfds, records"):
        build_source("imagenet")
    with pytest.raises(ValueError, match="'photos': got an unexpected keyword argument 'path'"):
        build_source("photos", path="x")
