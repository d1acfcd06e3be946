"""Encoder and decoder together: what a prefix of concepts means, and which parts fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vqlab import models
from vqlab.diffusion.guidance import Guidance
from vqlab.models.concept_decoding import concept_denoiser, concept_losses, decode_concepts


@pytest.fixture(scope="module")
def made():
    """(module, variables, images, concepts)."""
    module, variables = tiny.semanticist()
    images = jnp.asarray(tiny.images(3, 16))
    encode = jax.jit(functools.partial(module.apply, method="encode"))
    return module, variables, images, encode(variables, images)


@functools.partial(jax.jit, static_argnames=("module", "num_steps"))
def _decode(variables, concepts, *, module, **settings):
    return decode_concepts(module, variables, {}, concepts, **settings)


def decode(made, concepts, **settings):
    module, variables, *_ = made
    settings = {"key": jax.random.key(1), "num_steps": 3, "module": module} | settings
    return np.asarray(_decode(variables, concepts, **settings))


def test_concepts_have_mean_0_and_unbiased_variance_1(made):
    concepts = np.asarray(made[3], np.float64)
    assert concepts.shape == (3, 4, 4)
    np.testing.assert_allclose(concepts.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(concepts.var(-1, ddof=1), 1, atol=1e-5)


@pytest.mark.parametrize("num_kept", [0, 1, 3])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_decoding_a_prefix_ignores_the_rest_bit_for_bit(made, num_kept, scale):
    concepts = made[3]
    others = concepts.at[:, num_kept:].set(7.0)
    settings = {"num_kept": num_kept, "guidance": Guidance(scale)}
    np.testing.assert_array_equal(
        decode(made, concepts, **settings), decode(made, others, **settings)
    )
    assert not np.array_equal(decode(made, concepts), decode(made, others))


def test_each_sample_may_keep_its_own_number(made):
    together = decode(made, made[3], num_kept=jnp.asarray([0, 2, 4]))
    for row, num_kept in enumerate([0, 2, 4]):
        alone = decode(made, made[3], num_kept=num_kept)
        np.testing.assert_allclose(together[row], alone[row], atol=1e-5)


def test_guidance_1_is_the_conditional_prediction_and_0_the_unconditional(made):
    module, variables, images, concepts = made
    t = jnp.asarray([5, 500, 900])

    def prediction(scale, num_kept=None, force=False):
        guidance = Guidance(jnp.float32(scale) if force else scale)
        denoise = concept_denoiser(
            module, variables, concepts, num_kept=num_kept, guidance=guidance
        )
        return np.asarray(jax.jit(denoise)(images, t))[..., :3]

    conditional, unconditional = prediction(1.0), prediction(1.0, num_kept=0)
    assert np.abs(conditional - unconditional).max() > 1e-3
    # A traced scale takes the path of both halves, whose batch is another one.
    np.testing.assert_allclose(prediction(1.0, force=True), conditional, atol=1e-6)
    np.testing.assert_allclose(prediction(0.0), unconditional, atol=1e-6)
    np.testing.assert_allclose(
        prediction(3.0), unconditional + 3 * (conditional - unconditional), atol=1e-5
    )


def test_losses_use_the_same_times_and_noise_for_every_prefix(made):
    module, variables, images, concepts = made

    @jax.jit
    def losses(num_kept, key=0):
        key = jax.random.key(key)
        return concept_losses(module, variables, images, concepts, key=key, num_kept=num_kept)

    assert losses(2).shape == (3,)
    np.testing.assert_array_equal(losses(4), losses(None))
    assert not np.array_equal(losses(4), losses(1))
    assert not np.array_equal(losses(4), losses(4, key=1))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("encoder", {"num_concepts": 5}, "the encoder's num_concepts is 5, the decoder's 4"),
        ("encoder", {"concept_dim": 8}, "the encoder's concept_dim is 8, the decoder's 4"),
        ("encoder", {"image_size": 32}, "images of 32 pixels, the decoder's latents .* 16"),
        ("decoder", {"in_channels": 4}, "latents have 3 channels, the decoder takes 4"),
        ("decoder", {"out_channels": 3}, "needs 6 output channels, the decoder has 3"),
    ],
)
def test_parts_that_do_not_fit_are_named(part, changes, message):
    node = tiny.semanticist_node()
    node[part] |= changes
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(models.build(node).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_wrong_number_of_concepts_is_named(made):
    with pytest.raises(ValueError, match="num_concepts=5 is out of range: choose 0..4"):
        decode_concepts(*made[:2], {}, made[3], key=jax.random.key(0), num_kept=5)
