import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation import spectra
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.spectrum import PowerSpectrum
from vqlab.models.codec import Units


@dataclasses.dataclass(frozen=True)
class ContrastCodec:
    """Of `total` units, k give the image with k / total of its contrast."""

    units = prefixes = Units("concepts", 4, (1, 2, 4), "nulls")
    setting = ""
    stand_in = None

    def encode(self, weights, images):
        return images

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        return code * num_kept / self.units.total


class CommonCodec(ContrastCodec):
    """Without all units an image is the mean of all images, as far as its means over rows tell."""

    units = prefixes = Units("tokens", 2, (1, 2), "the mean")

    def stand_in(self, weights, code):
        return jnp.mean(code, axis=1).reshape(len(code), -1)

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        common = stand_in.reshape(1, 1, *code.shape[2:])
        return jnp.where(num_kept < 2, jnp.broadcast_to(common, code.shape), code)


@pytest.fixture(scope="module")
def evaluated():
    evaluator = PowerSpectrum(ContrastCodec(), stubs.batches(stubs.images(5)))
    return evaluator, evaluator.measure({}, {})


def test_distances_by_hand(evaluated):
    """Half the contrast is a quarter of the power at every frequency."""
    _, results = evaluated
    assert results["first_1/spectrum_distance"] == pytest.approx(np.log10(16), rel=1e-4)
    assert results["first_2/spectrum_distance"] == pytest.approx(np.log10(4), rel=1e-4)
    assert results["first_4/spectrum_distance"] == results["spectrum_distance"]
    assert results["spectrum_distance"] == pytest.approx(0, abs=1e-6)
    mean = (np.log10(16) + np.log10(4)) / 3
    assert results["semantic_spectrum_coupling"] == pytest.approx(mean, rel=1e-4)


def test_curves_are_means_over_images_without_padding(evaluated):
    evaluator, _ = evaluated
    power = np.asarray(spectra.radial_power(jnp.asarray(stubs.images(5))))
    np.testing.assert_allclose(evaluator.original_power, power.mean(0), rtol=1e-5)
    np.testing.assert_allclose(evaluator.power[2], power.mean(0) / 4, rtol=1e-5)
    np.testing.assert_array_equal(evaluator.frequency, np.arange(1, 9) / 16)


def test_protocol_and_section(evaluated):
    evaluator, results = evaluated
    assert evaluator.protocol.keys() == results.keys()
    measured = Measured({f"s/{name}": value for name, value in results.items()}, {})
    (section,) = evaluator.sections("s", measured)
    assert section.heading == "Power spectrum" and section.body.count("<img") == 2
    assert "numbers kept (1, 2, 4)" in section.body


def test_what_stands_for_the_others_is_the_mean_of_the_images_at_hand():
    images = stubs.images(3)  # and one of padding
    evaluator = PowerSpectrum(CommonCodec(), stubs.batches(images))
    results = evaluator.measure({}, {})
    common = np.broadcast_to(images.mean((0, 1)), images.shape)
    power = np.asarray(spectra.radial_power(jnp.asarray(common)))
    np.testing.assert_allclose(evaluator.power[1], power[0], rtol=1e-4, atol=1e-8)
    assert results["spectrum_distance"] == pytest.approx(0, abs=1e-6)
    name = "first_1/spectrum_distance"
    assert evaluator.protocol[name].endswith("first 1, the others the mean of these images")


def test_an_autoencoder_has_one_spectrum():
    codec = stubs.codec_of(stubs.autoencoder())
    evaluator = PowerSpectrum(codec, stubs.batches(stubs.images(3)))
    results = evaluator.measure(stubs.weights_of(codec.module), {})
    assert results.keys() == {"spectrum_distance"} and results["spectrum_distance"] > 0
    (section,) = evaluator.sections("s", Measured({"s/spectrum_distance": 1.0}, {}))
    assert section.body.count("<img") == 1


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        PowerSpectrum(ContrastCodec(), lambda split: []).measure({}, {})
