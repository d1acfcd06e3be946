import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import kl_vae_f16
from tests import tiny_kl
from tests.filled import filled
from vqlab import models
from vqlab.training import sharding

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 8, 12, 3)), jnp.float32)


@pytest.fixture(scope="module")
def model():
    return tiny_kl.autoencoder()


@pytest.fixture(scope="module")
def variables(model):
    return filled(model.init, IMAGES)


@pytest.fixture(scope="module")
def reconstruct(model):
    return jax.jit(model.apply)


def shapes(model, size=256):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def test_an_image_becomes_moments_and_the_mean_is_decoded(model, variables, reconstruct):
    images, quantized = reconstruct(variables, IMAGES)
    method = functools.partial(model.apply, method="encode_unquantized")
    moments = jax.jit(method)(variables, IMAGES)
    assert moments.shape == (8, 4, 6, 8) and model.stride == 2
    np.testing.assert_allclose(quantized.latents, moments[..., :4], atol=1e-5)
    assert images.shape == IMAGES.shape and images.dtype == jnp.float32
    decode = jax.jit(functools.partial(model.apply, method="decode"))
    np.testing.assert_allclose(decode(variables, quantized.latents), images, atol=1e-5)


def test_eight_devices_give_what_one_gives(model, variables):
    mesh = sharding.make_mesh(2, 4)
    places = sharding.tree_sharding(variables, mesh, ((".*", "fsdp"),))
    assert any(place.spec != PartitionSpec() for place in jax.tree.leaves(places))

    def run(variables, images):
        """The reconstruction, and the KL loss with its gradient."""

        def kl(variables):
            quantized = model.apply(variables, images, method="encode")
            return quantized.losses["kl"].sum(), quantized.latents

        (loss, latents), gradient = jax.value_and_grad(kl, has_aux=True)(variables)
        return model.apply(variables, latents, method="decode"), loss, gradient

    single = jax.jit(run)(variables, IMAGES)
    with jax.set_mesh(mesh):
        many = jax.jit(run)(
            jax.device_put(variables, places),
            jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec(("data", "fsdp")))),
        )
    np.testing.assert_allclose(many[0], single[0], atol=1e-5)
    np.testing.assert_allclose(many[1], single[1], rtol=1e-5)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(single[2]))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * scale)
    jax.tree.map(compare, many[2], single[2])


def test_remat_changes_no_number_and_bfloat16_few(variables, reconstruct):
    expected = reconstruct(variables, IMAGES).images
    node = tiny_kl.node()
    for side in ("encoder", "decoder"):
        node[side]["remat"] = True
    remat = jax.jit(models.build(node).apply)(variables, IMAGES).images
    np.testing.assert_allclose(remat, expected, atol=1e-5)
    for side in ("encoder", "decoder"):
        node[side]["dtype"] = "bfloat16"
    rough = jax.jit(models.build(node).apply)(variables, IMAGES)
    assert rough.images.dtype == rough.quantized.latents.dtype == jnp.float32
    assert 0 < jnp.abs(rough.images - expected).mean() < 0.05 * jnp.std(expected)


def test_each_sample_is_normalised_by_itself(variables, reconstruct):
    others = reconstruct(variables, IMAGES.at[1:].multiply(-0.5)).images
    np.testing.assert_array_equal(others[0], reconstruct(variables, IMAGES).images[0])


@pytest.mark.parametrize(("argument", "count"), [("", 66_456_019), ("ldm", 69_610_963)])
def test_the_published_sizes(argument, count):
    model = models.build(kl_vae_f16.get_config(argument).model)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    (images, quantized), made = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == count
    assert quantized.latents.shape == (1, 16, 16, 16) and images.shape == image.shape


def test_the_debug_config_is_narrow():
    model = models.build(kl_vae_f16.get_config("debug").model)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model, 64))) < 1_000_000


def test_the_last_kernel_lies_where_the_decoder_says(model, variables):
    leaf = variables["params"]["decoder"]
    for name in model.decoder.last_kernel_path:
        leaf = leaf[name]
    assert leaf.shape == (3, 3, 32, 3)


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        ("encoder", {"latent_channels": 4}, "makes 4 latent channels, the quantizer takes 8"),
        ("encoder", {"widths": (32, 48)}, r"widths \(32, 48\) must be multiples of 32"),
        ("encoder", {"depth": 0}, "depth=0 must be at least 1"),
        ("decoder", {"attention_stages": (2,)}, r"attention_stages has \[2\]; the stages are 0..1"),
        ("decoder", {"widths": (32,) * 3}, "the encoder's stride is 2, the decoder's 4"),
    ],
)
def test_parts_that_do_not_fit_are_named(side, change, message):
    node = tiny_kl.node()
    node[side] |= change
    with pytest.raises(ValueError, match=message):
        shapes(models.build(node), 16)


def test_indices_are_refused(model, variables):
    with pytest.raises(ValueError, match="GaussianBottleneck has no indices: decode its latents"):
        model.apply(variables, jnp.zeros((1, 2, 2, 1), jnp.int32), method="decode_indices")
