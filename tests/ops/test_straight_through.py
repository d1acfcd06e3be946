"""Codewords bit for bit forwards; backwards the token's gradient, or the rotated one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops.straight_through import rotated_through, straight_through


@pytest.mark.parametrize("through", [straight_through, rotated_through])
def test_the_value_is_the_codeword_and_only_the_token_learns(through):
    token, codeword, cotangent = jax.random.normal(jax.random.key(0), (3, 5, 4)) * 1e3
    value, pull_back = jax.vjp(through, token, codeword)
    np.testing.assert_array_equal(value, codeword)
    of_token, of_codeword = pull_back(cotangent)
    assert not of_codeword.any() and np.abs(of_token).max() > 0
    if through is straight_through:
        np.testing.assert_array_equal(of_token, cotangent)


def test_the_rotated_gradient_is_the_transpose_of_the_rotation_times_the_stretch():
    token, codeword = jnp.array([3.0, 0.0]), jnp.array([0.0, 6.0])
    quarter_turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # carries e_1 onto e_2
    cotangent = jnp.array([1.0, 2.0])
    (gradient, _) = jax.vjp(rotated_through, token, codeword)[1](cotangent)
    np.testing.assert_allclose(gradient, 2 * quarter_turn.T @ cotangent, rtol=1e-6)


def test_zero_vectors_give_finite_gradients():
    zero, one = jnp.zeros(3), jnp.ones(3)
    for token, codeword in ((zero, one), (one, zero), (one, -one)):
        value, pull_back = jax.vjp(rotated_through, token, codeword)
        np.testing.assert_array_equal(value, codeword)
        assert np.isfinite(pull_back(one)[0]).all()
