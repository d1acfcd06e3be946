import numpy as np
import pytest

from vqlab.data.token_clouds import anisotropic, make_cloud

TOKENS = anisotropic(20_000, 4, seed=0)


def test_deviations_fall_as_one_over_the_axis():
    np.testing.assert_allclose(TOKENS.std(0), 1 / np.arange(1, 5), rtol=0.03)
    np.testing.assert_array_equal(TOKENS, anisotropic(20_000, 4, seed=0))


def test_a_cloud_keeps_the_largest_components_rotated():
    """Variances along principal axes stay; groups of channels share them."""
    cloud = make_cloud(TOKENS * 3 + 7, 2, num_held_out=5_000, seed=1)
    assert len(cloud.train) == 15_000 and len(cloud.held_out) == 5_000
    both = np.concatenate([cloud.train, cloud.held_out])
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-5)
    along = both @ cloud.axes
    ratio = TOKENS[:, 1].std() / TOKENS[:, 0].std()
    np.testing.assert_allclose(along.std(0), [1, ratio], rtol=0.01)
    assert abs(np.corrcoef(along.T)[0, 1]) < 0.01 < abs(np.corrcoef(both.T)[0, 1])


def test_errors():
    with pytest.raises(ValueError, match=r"channels=5 of tokens with 4: choose 2\.\.4"):
        make_cloud(TOKENS, 5, 10, 0)
    with pytest.raises(ValueError, match="20000 held-out tokens of 20000"):
        make_cloud(TOKENS, 2, 20_000, 0)
