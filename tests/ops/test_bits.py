"""Indices of bits, and entropies that need no array of tokens by codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops import bits as ops


@pytest.mark.parametrize("low_bit_first", [False, True])
def test_indices_are_the_bits_and_back(low_bit_first):
    indices = jnp.arange(32)
    bits = ops.indices_to_bits(indices, 5, low_bit_first=low_bit_first)
    powers = 2 ** np.arange(5)[:: 1 if low_bit_first else -1]
    np.testing.assert_array_equal(np.sum(bits * powers, -1), indices)
    back = ops.bits_to_indices(bits, low_bit_first=low_bit_first)
    np.testing.assert_array_equal(back, indices)


@pytest.mark.parametrize("low_bit_first", [False, True])
def test_parts_of_unequal_length_hold_the_bits_in_their_order(low_bit_first):
    order = {"low_bit_first": low_bit_first}
    indices = jnp.arange(64)
    parts = ops.split_indices(indices, (2, 4), **order)
    assert parts.shape == (64, 2) and parts[:, 0].max() == 3 and parts[:, 1].max() == 15
    bits = ops.indices_to_bits(indices, 6, **order)
    np.testing.assert_array_equal(parts[:, 0], ops.bits_to_indices(bits[:, :2], **order))
    np.testing.assert_array_equal(ops.join_indices(parts, (2, 4), **order), indices)


def test_entropies_and_their_gradients_are_those_of_all_codes_written_out():
    logits = 3 * jax.random.normal(jax.random.key(0), (7, 5))
    signs = ops.indices_to_bits(jnp.arange(32), 5) * 2.0 - 1.0

    def written_out(logits):
        probabilities = jax.nn.softmax(logits @ signs.T / 2)
        mean = jnp.mean(probabilities, 0)
        of_tokens = -jnp.sum(probabilities * jnp.log(probabilities), -1)
        return jnp.mean(of_tokens), -jnp.sum(mean * jnp.log(mean))

    def factorised(logits):
        mean = ops.mean_code_probabilities(logits)
        return jnp.mean(ops.bits_entropy(logits)), ops.entropy(mean)

    @jax.jit
    def values_and_gradients(logits):
        return [(f(logits), jax.jacrev(f)(logits)) for f in (factorised, written_out)]

    ours, theirs = values_and_gradients(logits)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-8)


def test_certain_bits_give_finite_entropies_and_gradients():
    logits = jnp.array([[400.0, -400.0], [400.0, 400.0]])

    def entropies(logits):
        mean = ops.mean_code_probabilities(logits)
        return jnp.stack([jnp.mean(ops.bits_entropy(logits)), ops.entropy(mean)])

    both = jax.jit(lambda logits: (entropies(logits), jax.jacrev(entropies)(logits)))
    values, gradients = both(logits)
    np.testing.assert_allclose(values, [0.0, np.log(2)], atol=1e-6)
    assert np.isfinite(gradients).all()


def test_a_floor_and_an_offset_change_what_is_below_them():
    probabilities = jnp.array([0.5, 0.5 - 1e-7, 1e-7])
    exact = -np.sum(np.float64(probabilities) * np.log(np.float64(probabilities)))
    assert ops.entropy(probabilities) == pytest.approx(exact, rel=1e-6)
    floored = -(0.5 * np.log(0.5) + (0.5 - 1e-7) * np.log(0.5 - 1e-7) + 1e-7 * np.log(1e-5))
    assert ops.entropy(probabilities, floor=1e-5) == pytest.approx(floored, rel=1e-6)
    offset = -np.sum(np.float64(probabilities) * np.log(np.float64(probabilities) + 1e-3))
    assert ops.entropy(probabilities, offset=1e-3) == pytest.approx(offset, rel=1e-6)
    assert ops.entropy(jnp.array([1.0, 0.0])) == 0.0
