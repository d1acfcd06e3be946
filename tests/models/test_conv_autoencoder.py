import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.models.conv_autoencoder import ConvDecoder, ConvEncoder

ENCODER = dict(
    widths=(16, 16, 32),
    depths=(0, 1, 1),
    block_types=("res", "res", "evit_glu"),
    norm="rms_norm",
    act="silu",
    latent_channels=8,
)
DECODER = dict(
    widths=(16, 16, 32),
    depths=(0, 2, 1),
    block_types=("res", "res", "evit_glu"),
    norms=("batch_norm", "batch_norm", "rms_norm"),
    acts=("relu", "relu", "silu"),
)


def test_shapes_and_stride_of_non_square_images():
    encoder, decoder = ConvEncoder(**ENCODER), ConvDecoder(**DECODER)
    assert encoder.stride == decoder.stride == 4
    images = jnp.ones((2, 8, 12, 3))
    latents = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)[0]
    assert latents.shape == (2, 2, 3, 8)
    restored = jax.eval_shape(decoder.init_with_output, jax.random.key(0), latents)[0]
    assert restored.shape == images.shape


@pytest.mark.parametrize("depth", [0, 1])
def test_a_filled_stage_0_keeps_the_stride(depth):
    encoder = ConvEncoder(**ENCODER | {"depths": (depth, 1, 1)})
    decoder = ConvDecoder(**DECODER | {"depths": (depth, 1, 1)})
    key, images = jax.random.key(0), jnp.ones((1, 8, 8, 3))
    latents, _ = jax.eval_shape(encoder.init_with_output, key, images)
    restored, variables = jax.eval_shape(decoder.init_with_output, key, latents)
    assert latents.shape == (1, 2, 2, 8) and restored.shape == images.shape
    kernel = variables["params"]
    for part in decoder.last_kernel_path:
        kernel = kernel[part]
    assert kernel.shape == (3, 3, 16, 3 if depth else 12)


def test_remat_changes_neither_outputs_nor_statistics_nor_gradients():
    latents = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3, 8), np.float32))
    small = dict(
        widths=(8, 32),
        depths=(0, 1),
        block_types=("res", "evit_glu"),
        norms=("batch_norm", "batch_norm"),
        acts=("relu", "silu"),
    )
    plain, remat = ConvDecoder(**small), ConvDecoder(**small, remat=True)
    variables = filled(plain.init, latents)
    params, stats = variables["params"], variables["batch_stats"]

    def run(model):
        def loss(params):
            images, state = model.apply(
                {"params": params, "batch_stats": stats},
                latents,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.mean(images**2), (images, state)

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    shapes = jax.eval_shape(remat.init, jax.random.key(1), latents)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    for ours, theirs in zip(jax.tree.leaves(run(remat)), jax.tree.leaves(run(plain)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_activations_end_in_float32():
    encoder = ConvEncoder(**ENCODER, dtype="bfloat16")
    decoder = ConvDecoder(**DECODER, dtype="bfloat16")
    key = jax.random.key(0)
    latents, params = jax.eval_shape(encoder.init_with_output, key, jnp.ones((1, 8, 8, 3)))
    images, _ = jax.eval_shape(decoder.init_with_output, key, latents)
    assert latents.dtype == images.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"depths": (0, 1)}, "depths has 2 values for 3 widths"),
        ({"depths": (0, 0, 1)}, "stage 0 takes 0 or more blocks, the others 1 or more"),
        ({"block_types": ("res", "res", "vit")}, "unknown block 'vit'"),
        ({"block_types": ("res", "evit_glu", "evit_glu")}, "need a multiple of 32 channels.* 16"),
        ({"norm": "group"}, "unknown norm 'group'"),
        ({"act": "tanh"}, "unknown activation 'tanh'"),
        ({"latent_channels": 12}, "32 channels do not average into 12"),
        ({"widths": (16,), "depths": (0,)}, "at least 2 stages, widths has 1"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            ConvEncoder(**ENCODER | change).init, jax.random.key(0), jnp.ones((1, 8, 8, 3))
        )
