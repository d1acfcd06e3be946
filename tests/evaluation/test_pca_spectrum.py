import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.evaluation.panels import Measured

TRAIN, HELD_OUT = stubs.images(12, seed=1), stubs.images(5, seed=2)


def _evaluator(**settings):
    def make_batches(split):
        return stubs.batches(TRAIN if split == "train" else HELD_OUT)(split)

    return EVALUATORS["pca_spectrum"](None, make_batches, **settings)


def test_the_spectrum_comes_back_with_the_components():
    """Of the images that they are fitted to: all but one of twelve are close, one is far."""
    evaluator = _evaluator(fit_split="validation", max_components=4)
    results = evaluator.measure({}, {})
    assert results["first_4/spectrum_distance"] == pytest.approx(0, abs=1e-4)
    assert results["first_1/spectrum_distance"] > results["first_2/spectrum_distance"] > 0.05
    assert evaluator.measure({}, {}) == results
    arrays = evaluator.arrays()
    assert arrays["levels"].tolist() == [1, 2, 4]
    assert arrays["power"].shape == (3, len(arrays["frequency"]))
    np.testing.assert_allclose(arrays["power"][-1], arrays["original"], rtol=1e-3)
    assert all("5 validation images" in text for text in evaluator.protocol.values())
    (section,) = evaluator.sections("s", Measured({f"s/{k}": v for k, v in results.items()}, {}))
    assert section.heading == "Power spectrum of principal components"


def test_needs_more_images_than_components():
    assert _evaluator(max_components=8).needs.num_images == {"validation": 1, "train": 9}
    with pytest.raises(ValueError, match="max_components=6 is no power of two"):
        _evaluator(max_components=6)
