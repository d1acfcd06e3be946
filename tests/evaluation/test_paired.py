"""Values of pairs, and their means by protocol."""

import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.evaluation.paired import PairedMeans, mean_psnr, paired_values, to_pixels
from vqlab.evaluation.protocols import PROTOCOLS


def test_three_means_of_psnr_by_hand():
    mse = np.array([0.1] * 64 + [0.001] * 2)
    pooled = -10 * np.log10((6.4 + 0.002) / 66)
    np.testing.assert_allclose(mean_psnr(mse, "pooled"), pooled)
    np.testing.assert_allclose(mean_psnr(mse, "mean"), (64 * 10 + 2 * 30) / 66)
    np.testing.assert_allclose(mean_psnr(mse, "batches"), (10 + 30) / 2)


def test_pixels_are_floored_or_rounded_and_those_of_files_stay():
    pixels = np.arange(256).reshape(1, 16, 16, 1).repeat(3, -1)
    for rounding in ("floor", "round"):
        same = to_pixels(jnp.asarray(pixels / 127.5 - 1, jnp.float32), rounding)
        np.testing.assert_array_equal(same, pixels)
    images = jnp.full((1, 1, 1, 3), 10.7 / 127.5 - 1)
    assert int(to_pixels(images, "floor")[0, 0, 0, 0]) == 10
    assert int(to_pixels(images, "round")[0, 0, 0, 0]) == 11


@pytest.mark.parametrize(("name", "expected"), [("clean", 0.0), ("semanticist", 0.25)])
def test_what_lies_outside_counts_only_where_nothing_is_clipped(name, expected):
    images = jnp.ones((1, 16, 16, 3))
    values = paired_values(PROTOCOLS[name], ("psnr",), None, images, 2 * images)
    np.testing.assert_allclose(values["mse"], [expected])


def test_masked_pairs_count_for_nothing():
    means = PairedMeans()
    means.add({"ssim": np.array([0.5, np.nan])}, np.array([True, False]))
    means.add({"ssim": np.array([1.0, 0.0])}, np.array([True, True]))
    assert means.compute(PROTOCOLS["clean"]) == {"ssim": 0.5}
