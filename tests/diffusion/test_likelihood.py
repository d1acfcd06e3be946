import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vqlab.diffusion.likelihood import discretized_log_likelihood, normal_kl


def test_kl_of_gaussians_by_hand():
    zero = jnp.zeros(1)
    assert float(normal_kl(zero, zero, zero, zero)[0]) == 0
    assert float(normal_kl(zero + 3, zero, zero, zero)[0]) == pytest.approx(4.5)
    # variance 4 against 1: (4 - 1 - ln 4) / 2
    assert float(normal_kl(zero, zero + np.log(4), zero, zero)[0]) == pytest.approx(
        (3 - np.log(4)) / 2
    )


def test_the_bins_of_8_bit_images_share_all_probability():
    values = jnp.asarray(np.arange(256) / 127.5 - 1, jnp.float32)
    mean, log_scale = jnp.full(256, 0.3), jnp.full(256, np.log(0.2))
    ours = np.exp(np.asarray(discretized_log_likelihood(values, mean, log_scale)))
    assert ours.sum() == pytest.approx(1, abs=1e-5)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    expected = np.diff(norm.cdf(edges, 0.3, 0.2))
    np.testing.assert_allclose(ours, expected, atol=2e-4)  # an approximation of erf


def test_what_cannot_happen_costs_a_finite_amount():
    one = jnp.ones(1)
    ours = discretized_log_likelihood(0.5 * one, -one, jnp.log(1e-3 * one))
    assert float(ours[0]) == pytest.approx(np.log(1e-12))
