"""Resizing as PyTorch, TensorFlow 1 and Pillow do it."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vqlab.ops import resize


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (5, 11), (3, 4)])
def test_equals_pytorch(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False
    )
    ours = resize.bicubic(jnp.asarray(x), *size)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=3e-6)


def test_the_same_size_changes_nothing():
    np.testing.assert_allclose(resize.bicubic_matrix(7, 7), np.eye(7), atol=1e-15)


def test_every_pixel_is_a_weighted_mean():
    np.testing.assert_allclose(resize.bicubic_matrix(5, 13).sum(1), 1.0, atol=1e-12)


def test_the_first_weights_by_hand():
    """Doubling puts pixel 7 at 3.25 of the source."""
    a = resize.CUBIC_A
    near, far = ((a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (0.25, 0.75))
    before, after = (a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (1.25, 1.75))
    row = resize.bicubic_matrix(8, 16)[7]
    np.testing.assert_allclose(row[2:6], [before, near, far, after], atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (7, 11), (3, 40), (64, 5)])
def test_antialiased_bicubic_equals_pillow(size):
    x = np.random.default_rng(0).uniform(0, 255, (21, 34)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC))
    matrices = (resize.antialiased_bicubic_matrix(*n) for n in zip(x.shape, size, strict=True))
    ours = resize.resize(jnp.asarray(x)[..., None], *matrices)[..., 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (5, 11), (30, 3)])
def test_bilinear_equals_pytorch(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False
    )
    matrices = (resize.bilinear_matrix(*n) for n in zip(x.shape[1:3], size, strict=True))
    ours = resize.resize(jnp.asarray(x), *matrices)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=3e-6)


def test_tensorflow_1_aligns_corners_by_hand():
    """Three pixels become six: at 0, 0.5, 1, 1.5, 2, and 2.5, where the last one repeats."""
    row = resize.corner_bilinear_matrix(3, 6) @ np.array([0.0, 10.0, 40.0])
    np.testing.assert_allclose(row, [0, 5, 10, 25, 40, 40])
    np.testing.assert_array_equal(resize.corner_bilinear_matrix(9, 9), np.eye(9))
