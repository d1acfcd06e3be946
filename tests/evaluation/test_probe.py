import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.evaluation import stubs
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.probe import LinearProbe
from vqlab.models.codec import Units


@dataclasses.dataclass(frozen=True)
class PixelCodec:
    """Two units: the second is an image's first pixel, the first unit is noise."""

    units = Units("groups", 2, (1, 2), "zeros")
    setting = ""

    def encode(self, weights, images):
        return images

    def features(self, weights, code):
        return code[:, [4, 0], 0, :2]


def _data(count, seed):
    """Images whose first pixel tells the class, with more of class 7 than of 3."""
    images = stubs.images(count, seed)
    labels = np.where(images[:, 0, 0, 0] > -0.2, 7, 3)
    images[:, 0, 0, 0] += np.where(labels == 7, 0.5, -0.5)
    return images, labels


@pytest.fixture(scope="module")
def evaluated():
    splits = {"train": stubs.batches(*_data(120, 1)), "validation": stubs.batches(*_data(81, 2))}
    evaluator = LinearProbe(PixelCodec(), lambda split: splits[split](split))
    return evaluator, evaluator.measure({}, {})


def test_the_unit_that_tells_the_class_tells_it(evaluated):
    _, results = evaluated
    assert results["first_2/probe_accuracy"] == results["probe_accuracy"] > 0.97
    chance = np.mean(_data(81, 2)[1] == 7)
    assert results["chance_accuracy"] == pytest.approx(chance)
    assert abs(results["first_1/probe_accuracy"] - chance) < 0.15
    assert results["num_classes"] == 2


def test_one_split_is_fitted_on_its_even_images_and_scored_on_the_odd():
    # Even images have classes 0 and 1, odd ones 2 and 3: nothing can be right.
    labels = np.tile([0, 2, 1, 3], 5)
    probe = LinearProbe(
        PixelCodec(), stubs.batches(stubs.images(20), labels), fit_split="validation"
    )
    results = probe.measure({}, {})
    assert results["probe_accuracy"] == results["chance_accuracy"] == 0
    assert "10 images" in probe.protocol["probe_accuracy"]


def test_concepts_are_probed_one_prefix_after_the_other():
    codec = stubs.codec_of(stubs.semanticist())
    probe = LinearProbe(codec, stubs.batches(stubs.images(6), np.arange(6) % 2))
    weights = stubs.weights_of(codec.module)
    results = probe.measure(weights, {})
    concepts = np.asarray(jax.jit(codec.encode)(weights, jnp.asarray(stubs.images(6))))
    for k in codec.units.levels:
        x = concepts[:, :k].reshape(6, -1)
        x, labels = (x - x.mean(0)) / x.std(0), np.arange(6) % 2
        expected = LogisticRegression(max_iter=1000).fit(x, labels).score(x, labels)
        assert results[f"first_{k}/probe_accuracy"] == pytest.approx(expected)


def test_protocol_and_section(evaluated):
    probe, results = evaluated
    assert probe.protocol.keys() == results.keys()
    assert "120 images" in probe.protocol["probe_accuracy"]
    measured = Measured({f"p/{name}": value for name, value in results.items()}, {})
    (section,) = probe.sections("p", measured)
    assert section.heading == "Linear probe" and section.body.count("<img") == 1


def test_errors():
    codec, images = PixelCodec(), stubs.images(4)
    with pytest.raises(ValueError, match="at least 2 classes; the 4 images of the train split"):
        LinearProbe(codec, stubs.batches(images, np.zeros(4))).measure({}, {})
    with pytest.raises(ValueError, match="unknown split 'test'; choose from"):
        LinearProbe(codec, stubs.batches(images), fit_split="test")
    with pytest.raises(ValueError, match="keeps its code whole"):
        LinearProbe(stubs.codec_of(stubs.autoencoder()), stubs.batches(images))
    with pytest.raises(ValueError, match="no images"):
        LinearProbe(codec, lambda split: []).measure({}, {})
