import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from skimage.metrics import structural_similarity

from vqlab.evaluation import image_metrics as metrics

TORCHMETRICS = pathlib.Path(__file__).parent.parent / "golden" / "torchmetrics" / "ssim.npz"


@pytest.fixture(scope="module")
def pair():
    """Smooth images with noise, partly outside [-1, 1], as a decoder makes them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:40] / 10
    images = np.stack([np.sin(x + k * y)[..., None] * [1.0, 0.8, 0.5] for k in range(3)])
    noise = rng.normal(size=images.shape) * np.array([0.02, 0.2, 0.6])[:, None, None, None]
    return jnp.asarray(images, jnp.float32), jnp.asarray(images + noise, jnp.float32)


def test_psnr_by_hand_in_both_protocols():
    images = jnp.zeros((2, 4, 4, 3))
    # Differences of 0.2 and 0.02 in [-1, 1] are 0.1 and 0.01 in [0, 1]: 20 dB and 40 dB.
    reconstruction = images.at[0].add(0.2).at[1].add(0.02)
    values = metrics.PSNR.empty().add(images, reconstruction).compute()
    np.testing.assert_allclose(values["psnr_mean"], 30.0, rtol=1e-5)
    np.testing.assert_allclose(values["psnr"], -10 * np.log10((0.01 + 0.0001) / 2), rtol=1e-5)


def test_pixels_are_clipped_and_perfection_is_finite():
    images = jnp.ones((1, 4, 4, 3))
    values = metrics.PSNR.empty().add(images, 3 * images).compute()
    assert float(values["psnr"]) == float(values["psnr_mean"]) == metrics.MAX_PSNR


def test_batches_add_up_and_masks_drop_padding(pair):
    images, reconstruction = pair
    whole = metrics.PSNR.empty().add(images, reconstruction)
    padding = jnp.full_like(images[:1], jnp.nan)
    padded = [
        (images[:2], reconstruction[:2], [True, True]),
        (images[1:], jnp.concatenate([padding, reconstruction[2:]]), [False, True]),
    ]
    state = metrics.PSNR.empty()
    for x, y, mask in padded:
        state = state.add(x, y, jnp.array(mask))
    assert int(state.mse.count) == int(whole.mse.count) == 3
    for name, value in state.compute().items():
        np.testing.assert_allclose(value, whole.compute()[name], rtol=1e-6)


def test_uint8_is_floored():
    images = jnp.array([-1.5, -1.0, -1 + 1.99 / 127.5, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(metrics.to_uint8(images).ravel(), [0, 0, 1, 127, 255, 255])
    levels = np.arange(256, dtype=np.float32)
    there = jnp.asarray(levels / np.float32(127.5) - 1)
    np.testing.assert_array_equal(metrics.to_uint8(there), levels)


def test_uniform_ssim_equals_skimage(pair):
    images, reconstruction = pair
    ours = jax.jit(metrics.ssim_uniform)(images, reconstruction)
    a, b = (np.asarray(metrics.to_uint8(z)) for z in pair)
    expected = [
        structural_similarity(x, y, channel_axis=-1, data_range=255)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    np.testing.assert_allclose(metrics.ssim_uniform(images, images), 1.0, atol=1e-6)


@pytest.mark.parametrize("size", ["11x11", "16x24", "33x40", "64x64"])
def test_gaussian_ssim_equals_torchmetrics(size):
    with np.load(TORCHMETRICS) as stored:
        pair = (stored[f"in/{name}_{size}"] for name in ("images", "reconstruction"))
        ours = metrics.ssim_gaussian(*(jnp.float32(z / 127.5 - 1) for z in pair))
        np.testing.assert_allclose(ours["ssim_gaussian"], stored[f"out/ssim_{size}"], atol=1e-5)


def test_gaussian_ssim_inside_the_image_equals_its_definition(pair):
    images, reconstruction = pair
    ours = jax.jit(metrics.ssim_gaussian)(images, reconstruction)["ssim_gaussian_valid"]
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    for i in range(3):
        channels = []
        for c in range(3):
            x, y = (np.clip(np.asarray(z[i, ..., c], np.float64), -1, 1) / 2 + 0.5 for z in pair)
            blur = [correlate2d(z, window, "valid") for z in (x, y, x * x, y * y, x * y)]
            mx, my, var_x, var_y = blur[0], blur[1], blur[2] - blur[0] ** 2, blur[3] - blur[1] ** 2
            cov = blur[4] - mx * my
            channels.append(
                np.mean(
                    (2 * mx * my + 1e-4)
                    * (2 * cov + 9e-4)
                    / ((mx**2 + my**2 + 1e-4) * (var_x + var_y + 9e-4))
                )
            )
        np.testing.assert_allclose(ours[i], np.mean(channels), atol=1e-4)


def test_codebook_usage_by_hand():
    indices = jnp.array([[0, 0], [0, 1], [1, 2], [1, 3]]).reshape(1, 2, 2, 2)
    padding = jnp.full_like(indices, 3)
    state = metrics.CodebookUsage.empty(num_groups=2, codebook_size=4)
    state = state.add(jnp.concatenate([indices, padding]), jnp.array([True, False]))
    np.testing.assert_array_equal(state.counts, [[2, 2, 0, 0], [1, 1, 1, 1]])
    values = state.add(indices).compute()
    np.testing.assert_allclose(values["usage"], [0.5, 1.0])
    np.testing.assert_allclose(values["entropy"], [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(values["perplexity"], [2.0, 4.0], rtol=1e-6)


def test_usage_of_nothing_is_zero():
    values = metrics.CodebookUsage.empty(1, 4).compute()
    assert float(values["usage"][0]) == 0.0 and float(values["entropy"][0]) == 0.0


def test_mean_colour_is_the_best_constant(pair):
    images = jnp.clip(pair[0], -1, 1)
    painted = metrics.mean_colour(images)
    np.testing.assert_allclose(painted[:, 3, 5], images.mean((1, 2)), rtol=1e-5, atol=1e-6)
    best = metrics.mse_per_image(images, painted)
    np.testing.assert_allclose(best, (images / 2).var((1, 2)).mean(-1), rtol=1e-4)


def test_bad_shapes():
    x = jnp.zeros((1, 6, 40, 3))
    with pytest.raises(ValueError, match="6x40 are smaller than the 7x7 window"):
        metrics.ssim_uniform(x, x)
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim_gaussian(x, x)
    with pytest.raises(ValueError, match="one shape"):
        metrics.PSNR.empty().add(x, x[:, :, :8])
