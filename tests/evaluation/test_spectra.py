import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.evaluation import spectra


def _grey(pixels):
    """[B, H, W] in [0, 1] as images in [-1, 1]."""
    return jnp.asarray(np.repeat(pixels[..., None], 3, axis=-1) * 2 - 1, jnp.float32)


@pytest.mark.parametrize("cycles, ring", [((0, 3), 3), ((5, 0), 5), ((3, 4), 5), ((0, 8), 8)])
def test_a_cosine_lands_in_its_ring(cycles, ring):
    side, amplitude = 16, 0.25
    y, x = np.mgrid[0:side, 0:side] / side
    wave = 0.5 + amplitude * np.cos(2 * np.pi * (cycles[0] * y + cycles[1] * x))
    power = np.asarray(jax.jit(spectra.radial_power)(_grey(wave[None])))[0]
    frequency = spectra.frequencies(side, side)
    assert frequency[ring - 1] == ring / side
    # Two bins of power (a / 2)**2 H W, at the highest frequency both in one place.
    total = (2 if ring < side // 2 else 4) * (amplitude / 2) ** 2 * side**2
    members = _members(side, side, ring / side, 0.5 / side)
    np.testing.assert_allclose(power[ring - 1], total / members, rtol=1e-4)
    np.testing.assert_allclose(np.delete(power, ring - 1), 0, atol=1e-6)


def _members(height, width, frequency, slack):
    """Number of frequencies in a ring, counted one by one."""
    count = 0
    for u in np.fft.fftfreq(height):
        for v in np.fft.fftfreq(width):
            count += frequency - slack <= np.hypot(u, v) < frequency + slack
    return count


def test_white_noise_is_flat_at_its_variance():
    noise = 0.5 + 0.05 * np.random.default_rng(0).normal(size=(300, 32, 48))
    power = np.asarray(spectra.radial_power(_grey(noise))).mean(0)
    assert power.shape == spectra.frequencies(32, 48).shape == (16,)
    np.testing.assert_allclose(power, 0.05**2, rtol=0.1)


def test_rings_hold_the_power_of_the_luma():
    """Parseval: an image without the corners' frequencies has its variance in the rings."""
    side = 12
    rng = np.random.default_rng(0)
    u, v = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    pixels = rng.normal(size=(3, side, side))
    low = np.where(np.hypot(u, v) < 0.4, np.fft.fft2(pixels), 0)
    pixels = 0.5 + 0.1 * np.real(np.fft.ifft2(low))
    images = np.moveaxis(pixels, 0, -1)[None] * 2 - 1
    luma = np.tensordot(pixels, spectra.LUMA, (0, 0))
    power = np.asarray(spectra.radial_power(jnp.asarray(images, jnp.float32)))[0]
    members = [_members(side, side, f, 0.5 / side) for f in spectra.frequencies(side, side)]
    np.testing.assert_allclose(np.sum(power * members), luma.var() * side**2, rtol=1e-4)


def test_distance_is_the_mean_gap_in_powers_of_ten():
    frequency = np.array([1, 2, 4]) / 8
    power = np.array([1.0, 1.0, 1.0])
    assert spectra.spectrum_distance(power, 100 * power, frequency) == pytest.approx(2)
    assert spectra.spectrum_distance(power, power, frequency) == 0
    # Gaps 0, 1, 0 on an even logarithmic grid: two triangles of half the area.
    assert spectra.spectrum_distance(power, np.array([1, 10, 1.0]), frequency) == pytest.approx(0.5)


def test_less_than_rounding_shows_is_nothing():
    frequency = np.array([1, 2]) / 4
    low = np.full(2, spectra.ROUNDING_POWER)
    assert spectra.spectrum_distance(low, np.zeros(2), frequency) == 0


def test_tiny_images_are_refused():
    with pytest.raises(ValueError, match="3x8 have no spectrum"):
        spectra.radial_power(jnp.zeros((1, 3, 8, 3)))
