import pytest

from tests.evaluation import stubs
from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.evaluation.needs import Needs, Supply

PROBE = Needs({"train": 2, "validation": 1}, labels=True)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ((2, 2), (1, 2), ""),
        ((1, 2), (1, 2), "the train split has 1 of the 2 images that it needs"),
        ((9, 2), (9, 0), "the validation split has no labels"),
        ((9, 1), (9, 1), "the train split has 1 of the 2 classes that it needs"),
        ((9, 8), (9, 2), "the splits have other classes each: 8 (train) and 2 (validation)"),
    ],
)
def test_what_the_data_lack_is_said(train, validation, message):
    supplies = {"train": Supply(*train), "validation": Supply(*validation)}
    assert PROBE.missing(supplies) == message


def test_images_without_labels_serve_what_does_not_read_them():
    assert Needs({"validation": 1}).missing({"validation": Supply(1, 0)}) == ""


def test_what_each_evaluator_needs():
    codec, batches = stubs.codec_of(stubs.grouped_tokenizer()), stubs.batches(stubs.images())

    def needs(name, **arguments):
        return EVALUATORS[name](codec, batches, **arguments).needs

    assert needs("reconstruction") == Needs({"validation": 1}, side=11)
    assert needs("reconstruction", networks=["lpips"]).side == 16
    assert needs("explained_variance") == Needs({"validation": 1})
    assert needs("spectrum").side == 4
    assert needs("pca") == Needs({"train": 2, "validation": 1})
    assert needs("pca", fit_split="validation") == Needs({"validation": 2})
    assert needs("probe") == PROBE
    assert needs("probe", fit_split="validation") == Needs({"validation": 3}, labels=True)
    with pytest.raises(ValueError, match="evals.x.image_size=8 is too small .* at least 11"):
        needs("reconstruction").check_side(8, "evals.x.image_size")
