"""A generator's samples measured by protocols, on stub features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import features, stubs
from vqlab.evaluation.frechet import frechet_distance
from vqlab.evaluation.generation import Generation, images_of_classes
from vqlab.evaluation.image_metrics import to_uint8
from vqlab.evaluation.moments import Moments
from vqlab.evaluation.set_measures import POOLED
from vqlab.models.codec import Weights
from vqlab.models.generator import NUMBERS_PER_CLASS, Generator, draw_images
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.training import sharding

IMAGES = stubs.images(12)
NUM_SAMPLES = 10
WEIGHTS = Weights({"spread": np.float32(0.3)}, {})


class Painter(Generator):
    """Draws the grey of a class, with noise of each image's own."""

    def __init__(self, num_classes=4):
        self.num_classes, self.sampling = num_classes, GeneratorSampling()

    def check_sampling(self, sampling):
        sampling.tokens.check_classes(self.num_classes)

    def sample(self, weights, labels, keys, sampling, given=None, num_given=0):
        shape = stubs.SIDE, stubs.SIDE, 3
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        grey = labels[:, None, None, None] / self.num_classes - 0.5
        return grey + weights.variables["spread"] * sampling.tokens.temperature * noise

    def decode(self, weights, code, keys, sampling):
        return code


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch):
    features.stand_in(monkeypatch)


def evaluator(generator=None, **arguments):
    given = {"batch_size": 4, "measures": "fid,is,pr", "networks": ("inception",)} | arguments
    return Generation(generator or Painter(), stubs.batches(IMAGES), **given)


def run(**arguments):
    made = evaluator(num_images=NUM_SAMPLES, **arguments)
    return made, made.measure(WEIGHTS, {"inception": {}})


def test_what_is_measured_is_what_is_drawn_class_by_class():
    made, results = run(measures="fid")
    assert set(results) == {"adm/fid", "adm/kid", "adm/num_images"}
    assert results["adm/num_images"] == NUM_SAMPLES
    labels, numbers = map(jnp.asarray, images_of_classes(NUM_SAMPLES, 4))
    samples = draw_images(Painter(), WEIGHTS, labels, 0, numbers, GeneratorSampling())[1]
    sides = [
        Moments.of(features.features_of(None, pixels, "tf1")[POOLED])
        for pixels in (np.rint((IMAGES + 1) * 127.5), to_uint8(samples))
    ]
    expected = frechet_distance(*(x for m in sides for x in (m.mean, m.covariance)))
    np.testing.assert_allclose(results["adm/fid"], expected, rtol=1e-4)
    text = made.protocol["adm/fid"]
    assert "biased upwards, of 10 images" in text and "samples with guidance_scale=1.0" in text


def test_settings_of_its_own_matter_and_devices_do_not():
    _, alone = run(protocols="adm,clean")
    assert {"adm/is", "adm/recall", "clean/precision"} < set(alone)
    _, colder = run(sampling={"temperature": 0.1})
    assert colder["adm/fid"] != alone["adm/fid"]
    mesh = sharding.make_mesh(-1, 1)
    with jax.set_mesh(mesh):
        weights = jax.device_put(WEIGHTS, sharding.replicated(mesh))
        spread = evaluator(num_images=NUM_SAMPLES, batch_size=8, protocols="adm,clean")
        (images, _), _ = spread._drawn(weights, NUM_SAMPLES)
        assert images.sharding.shard_shape(images.shape)[0] == 1  # of eight devices
        results = spread.measure(weights, {"inception": {}})
    for name, value in alone.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5, err_msg=name)


def test_classes_come_in_turn_and_an_image_has_the_number_that_it_has_in_files():
    labels, numbers = images_of_classes(5, 2)
    np.testing.assert_array_equal(labels, [0, 1, 0, 1, 0])
    second = NUMBERS_PER_CLASS
    np.testing.assert_array_equal(numbers, [0, second, 1, second + 1, 2])
    labels, numbers = images_of_classes(3, 7)  # fewer than classes
    np.testing.assert_array_equal(labels, [0, 2, 4])
    np.testing.assert_array_equal(numbers, labels * NUMBERS_PER_CLASS)
    np.testing.assert_array_equal(images_of_classes(3, 0)[0], [0, 0, 0])


def test_as_many_as_the_reference_has_unless_told():
    seen = []

    def watch(batches, count):  # as what stops a run, or shows how far it is
        for batch in batches:
            seen.append((len(batch["mask"]), count))
            yield batch

    made = evaluator(measures="fid", watch=watch)
    assert made.measure(WEIGHTS, {"inception": {}})["adm/num_images"] == 12
    assert seen == [(4, 12)] * 3


def test_what_cannot_be_measured_is_one_line():
    for arguments, message in (
        ({"networks": ()}, "fid needs the weights of Inception"),
        ({"measures": "", "networks": ()}, "fid needs the weights of Inception"),
        ({"measures": "psnr"}, "unknown measure of samples 'psnr'; choose from fid, sfid"),
        ({"protocols": "dirty"}, "unknown protocol 'dirty'"),
        ({"num_images": 1}, "num_images=1 is out of range: at least 2"),
        ({"sampling": {"cfg": 2}}, "has no settings .'cfg'.; choose from"),
        ({"generator": Painter(0), "sampling": {"guidance_scale": 2.0}}, "needs classes"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator(**arguments)
