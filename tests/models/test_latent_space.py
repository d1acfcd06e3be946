import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny, tiny_kl
from tests.filled import filled
from vqlab.models.latent_space import AutoencoderSpace, PixelSpace

IMAGES = tiny.images(2, 4)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def space():
    return AutoencoderSpace(tiny_kl.autoencoder(), scaling_factor=0.25)


@pytest.fixture(scope="module")
def variables(space):
    return filled(space.autoencoder.init, IMAGES)


def test_pixels_are_their_own_latents():
    space = PixelSpace()
    assert (space.channels, space.stride) == (3, 1)
    assert space.moments({}, IMAGES) is None
    np.testing.assert_array_equal(space.encode({}, IMAGES, KEY), IMAGES)
    np.testing.assert_array_equal(space.decode({}, IMAGES), IMAGES)


def test_latents_are_scaled_draws_from_the_posterior(space, variables):
    latents = jax.jit(space.encode)(variables, IMAGES, KEY)
    assert (space.channels, space.stride) == (4, 2)
    assert latents.shape == (2, 2, 2, 4) and latents.dtype == jnp.float32
    moments = jax.jit(space.moments)(variables, IMAGES)
    np.testing.assert_allclose(latents, space.from_moments(moments, KEY), rtol=1e-5, atol=1e-6)
    mean, deviation = moments[..., :4], jnp.exp(moments[..., 4:] / 2)
    noise = jax.random.normal(KEY, mean.shape)
    np.testing.assert_allclose(latents, 0.25 * (mean + deviation * noise), rtol=1e-4, atol=1e-5)


def test_decoding_undoes_the_scale(space, variables):
    latents = jax.random.normal(KEY, (2, 2, 2, 4))
    decode = jax.jit(functools.partial(space.autoencoder.apply, method="decode"))
    expected = decode(variables, latents)
    scaled = jax.jit(space.decode)(variables, 0.25 * latents)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_nothing_trains_the_autoencoder(space, variables):
    def loss(variables, images):
        latents = space.encode(variables, images, KEY)
        return jnp.sum(latents**2) + jnp.sum(space.decode(variables, latents) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, IMAGES)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradients))


def test_spaces_are_hashable_and_equal_by_value(space):
    other = AutoencoderSpace(tiny_kl.autoencoder(), scaling_factor=0.25)
    assert space == other and hash(space) == hash(other)
    assert PixelSpace() == PixelSpace() and hash(PixelSpace()) == hash(PixelSpace())


@pytest.mark.parametrize("call", ["decode", "from_moments"])
def test_latents_of_another_autoencoder_are_one_clear_line(space, variables, call):
    latents = jnp.zeros((1, 2, 2, 6))
    with pytest.raises(ValueError) as error:
        if call == "decode":
            space.decode(variables, latents)
        else:
            space.from_moments(latents, KEY)
    message = str(error.value)
    assert "(1, 2, 2, 6) must" in message and "\n" not in message
    assert ("4]" if call == "decode" else "8 channels") in message


def test_settings_are_checked():
    with pytest.raises(ValueError, match="needs a gaussian_bottleneck, not GroupedQuantizer"):
        AutoencoderSpace(tiny.tokenizer())
    with pytest.raises(ValueError, match="scaling_factor=0.0 must be above 0"):
        AutoencoderSpace(tiny_kl.autoencoder(), 0.0)
    with pytest.raises(ValueError, match="pixels have 3 channels and stride 1, not 4 and 1"):
        PixelSpace(channels=4)
    with pytest.raises(ValueError, match=r"latents \(1, 8, 8, 4\) must be \[B, h, w, 3\]"):
        PixelSpace().decode({}, jnp.zeros((1, 8, 8, 4)))
    with pytest.raises(ValueError, match="a pixel space has no moments"):
        PixelSpace().from_moments(jnp.zeros((1, 8, 8, 6)), KEY)
