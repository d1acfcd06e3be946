"""LFQ's and BSQ's own claims; tests/test_parity.py meets the arrays of three released classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.nn.bsq import BSQ
from vqlab.nn.lfq import LFQ


@functools.partial(jax.jit, static_argnums=0)
def quantize(module, x):
    variables = {"codebook_stats": {}}
    return module.apply(variables, x, train=False, mutable=["codebook_stats"])[0]


@functools.partial(jax.jit, static_argnums=0)
def entropies(module, x):
    variables = {"codebook_stats": {}}
    return module.apply(variables, x, mutable=["codebook_stats"], method="entropies")[0]


def test_groups_only_write_the_same_bits_in_shorter_indices():
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    whole = quantize(LFQ(256), x)
    split = quantize(LFQ(16, num_groups=2, entropy_bits=8), x)
    np.testing.assert_array_equal(split.latents, whole.latents)
    np.testing.assert_array_equal(
        split.indices[..., 0] * 16 + split.indices[..., 1], whole.indices[..., 0]
    )
    assert split.indices.shape == (2, 5, 2)
    ours = entropies(LFQ(16, num_groups=2, entropy_bits=8), x)
    theirs = entropies(LFQ(256), x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_codewords_of_bsq_lie_on_the_unit_sphere_whatever_the_length_of_latents():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    for module, spheres in ((BSQ(8, num_groups=2), 1), (BSQ(8, num_groups=2, sphere="group"), 2)):
        found = quantize(module, x)
        np.testing.assert_allclose(np.sum(found.latents**2, -1), spheres, rtol=1e-6)
        np.testing.assert_array_equal(quantize(module, 100 * x).indices, found.indices)
        np.testing.assert_array_equal(found.latents > 0, x > 0)


def test_18_bits_are_exact_and_hold_no_array_of_tokens_by_codewords():
    """2^12 different codewords, each once, have 12 log 2 nats."""
    count, bits = 2**12, 18
    module = LFQ(2**bits, inverse_temperature=100.0, batch_weight=2.0)
    x = jnp.zeros((1, count, bits))
    variables = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)

    def loss_of(x, variables):
        quantized, _ = module.apply(variables, x, train=True, mutable=["codebook_stats"])
        return jnp.sum(quantized.losses["entropy"])

    compiled = jax.jit(jax.grad(loss_of)).lower(x, variables).compile()
    largest = 4 * count * 2**bits
    assert compiled.memory_analysis().temp_size_in_bytes < largest / 20
    every = ((np.arange(2**12)[:, None] >> np.arange(12)) % 2 * 2.0 - 1.0).astype(np.float32)
    sample = jnp.asarray(np.concatenate([every, every[:, :6]], -1))[None]
    token, batch = entropies(module, sample)
    np.testing.assert_allclose((token[0], batch[0]), (0.0, 12 * np.log(2)), atol=1e-4)


def test_entropy_by_single_bits_is_an_upper_bound_that_forgets_what_bits_share():
    x = jnp.repeat(jnp.array([[[5.0, 5.0], [-5.0, -5.0]]]), 2, 0)  # two equal bits
    exact = entropies(LFQ(4, inverse_temperature=10.0), x)[1]
    by_bits = entropies(LFQ(4, inverse_temperature=10.0, entropy_bits=1), x)[1]
    np.testing.assert_allclose((exact[0], by_bits[0]), (np.log(2), 2 * np.log(2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (LFQ, {"codebook_size": 12}, "codebook_size=12 must be a power of two"),
        (LFQ, {"codebook_size": 1}, "codebook_size=1 must be a power of two, 2 or more"),
        (LFQ, {"codebook_size": 2**21}, r"2\*\*21 is above 2\*\*20: give num_groups to split"),
        (LFQ, {"codebook_size": 16, "num_groups": 0}, "num_groups=0 must be at least 1"),
        (LFQ, {"codebook_size": 16, "entropy_bits": 3}, "entropy_bits=3 do not fit 1 groups of 4"),
        (BSQ, {"codebook_size": 16, "sphere": "all"}, "unknown sphere 'all'; choose from"),
    ],
)
def test_wrong_settings_are_named(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)
