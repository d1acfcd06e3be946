"""What recognition and neighbours say of a generator whose samples are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.batches import SPLITS
from vqlab.evaluation.needs import Supply
from vqlab.evaluation.neighbours import Neighbours
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.recognition import Recognition
from vqlab.evaluation.small_images import read_small, shrink
from vqlab.models.codec import Weights
from vqlab.models.generator import Generator
from vqlab.models.generator_sampling import GeneratorSampling

CLASSES = 3
SIDE = stubs.SIDE


@dataclasses.dataclass(frozen=True)
class Painter(Generator):
    """Paints class c in its grey; without guidance always class 0. Codes are images, rebuilt 0.1
    lighter."""

    num_classes: int = CLASSES
    image_size: int = SIDE
    sampling: GeneratorSampling = GeneratorSampling.of(guidance_scale=2.0)

    def check_sampling(self, sampling):
        pass

    def encode(self, weights, images):
        return images

    def sample(self, weights, labels, keys, sampling, given=None, num_given=0):
        shown = labels if sampling.tokens.is_guided else jnp.zeros_like(labels)
        return jnp.broadcast_to(grey(shown), (len(labels), SIDE, SIDE, 3))

    def decode(self, weights, code, keys, sampling):
        return code + 0.2


def grey(labels):
    return (jnp.asarray(labels, jnp.float32) * 0.5 - 0.7)[:, None, None, None]


def batches(count):
    """Images in the grey of their class; odd ones 0.04 lighter, of numbers in [0, 1]."""
    labels = np.arange(count) % CLASSES
    lighter = 0.08 * (np.arange(count) % 2)[:, None, None, None]
    images = np.broadcast_to(np.asarray(grey(labels)) + lighter, (count, SIDE, SIDE, 3))
    return stubs.batches(images.astype(np.float32), labels)


def made(kind, generator=None, **arguments):
    splits = {"train": batches(31), "validation": batches(9)}
    arguments = {"num_per_class": 2, "side": 4} | arguments
    return kind(generator or Painter(), lambda split: splits[split](split), **arguments)


def shown(evaluator, results):
    (section,) = evaluator.sections("r", Measured({f"r/{k}": v for k, v in results.items()}, {}))
    return section.body


def test_samples_are_recognised_with_guidance_alone():
    evaluator = made(Recognition)
    results = evaluator.measure(Weights({}, {}), {})
    assert results == {
        "recognised": 1.0,
        "recognised_unguided": pytest.approx(1 / CLASSES),
        "real_accuracy": 1.0,
    }
    assert evaluator.by_class["recognised_unguided"] == {0: 1.0, 1: 0.0, 2: 0.0}
    assert evaluator.protocol.keys() == results.keys()
    assert "31 training images" in evaluator.protocol["recognised"]
    assert evaluator.summary(results) == (
        "100.0% of 6 samples are recognised, 33.3% without guidance; of real held-out images 100.0%"
    )
    assert "<td>2</td>" in shown(evaluator, results)


def test_without_guidance_there_is_nothing_to_leave_out():
    evaluator = made(Recognition, Painter(sampling=GeneratorSampling()), classes=(0, 2))
    results = evaluator.measure(Weights({}, {}), {})
    assert results == {"recognised": 0.5, "real_accuracy": 1.0}
    assert evaluator.protocol.keys() == results.keys()
    assert "guidance" not in evaluator.summary(results)


def test_distances_are_those_of_samples_real_images_and_copies():
    evaluator = made(Neighbours, classes=(1, 2))
    results = evaluator.measure(Weights({}, {}), {})
    # In [0, 1]: samples are 0.1 lighter than their grey and 0.06 than the lighter half of it; so
    # are copies of the one half, and those of the other 0.1 lighter than the lightest.
    assert results == {
        "distance": pytest.approx(0.06, abs=1e-6),
        "distance_of_real": pytest.approx(0, abs=1e-6),
        "distance_of_copies": pytest.approx(0.08, abs=1e-6),
    }
    assert [pair.label for pair in evaluator.pairs] == [1, 2]
    for pair in evaluator.pairs:
        np.testing.assert_allclose(pair.nearest - grey([pair.label])[0], 0.08, atol=1e-6)
        np.testing.assert_allclose(pair.sample - pair.nearest, 0.12, atol=1e-6)
    assert evaluator.protocol.keys() == results.keys()
    assert "samples are 0.060 from" in evaluator.summary(results)
    assert shown(evaluator, results).count("<img") == 1


def test_padding_is_left_out_and_shrinking_averages():
    small = read_small(batches(5), "train", 2)
    assert small.pixels.shape == (5, 12) and small.labels.tolist() == [0, 1, 2, 0, 1]
    assert np.isfinite(small.pixels).all()
    halves = np.concatenate([np.full((1, 8, 16, 3), v) for v in (-3.0, 1.0)], 1)
    rows = np.asarray(jax.device_get(shrink(halves, 4))).reshape(4, 4, 3)
    assert rows[0].max() == 0 and rows[-1].min() == 1


def test_errors():
    with pytest.raises(ValueError, match="needs a generator of 2 classes or more; this one has 0"):
        made(Recognition, Painter(num_classes=0))
    with pytest.raises(ValueError, match="side=17 is out of range: choose 1..16"):
        made(Neighbours, side=17)
    with pytest.raises(ValueError, match="class 3 does not exist"):
        made(Recognition, classes=(3,))
    assert "no labels" in made(Recognition).needs.missing(dict.fromkeys(SPLITS, Supply(9, 0)))
