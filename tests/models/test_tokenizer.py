import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.filled import filled

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)), jnp.float32)


@pytest.fixture(scope="module")
def model():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def variables(model):
    return filled(model.init, IMAGES)


@pytest.fixture(scope="module")
def decode(model, variables):
    """Jitted decode_indices(indices, num_groups)."""

    @functools.partial(jax.jit, static_argnums=1)
    def run(x, num_groups=None):
        return model.apply(variables, x, num_groups=num_groups, method="decode_indices")

    return run


def test_parameters_lie_under_the_agreed_names(variables):
    assert set(variables["params"]) == {
        "encoder",
        "quant_conv",
        "quantizer",
        "post_quant_conv",
        "decoder",
    }
    assert variables["params"]["quantizer"]["codebook"].shape == (2, 16, 4)
    assert variables["params"]["quant_conv"]["kernel"].shape == (1, 1, 4, 8)  # 2 feature groups


def test_decoding_the_indices_gives_the_reconstruction(model, variables, decode):
    images, quantized = jax.jit(model.apply)(variables, IMAGES)
    encoded = jax.jit(functools.partial(model.apply, method="encode"))(variables, IMAGES)
    assert images.shape == IMAGES.shape and images.dtype == jnp.float32
    assert encoded.indices.shape == (2, 2, 3, 2) and encoded.indices.dtype == jnp.int32
    np.testing.assert_array_equal(encoded.indices, quantized.indices)
    np.testing.assert_allclose(decode(encoded.indices), images, atol=2e-5)


def test_absent_groups_are_zero_latents(model, variables, decode):
    indices = jnp.ones((2, 2, 3, 2), jnp.int32)
    one = decode(indices, 1)
    other = indices.at[..., 1].set(7)  # the absent group's indices make no difference
    np.testing.assert_array_equal(one, decode(other, 1))
    none = decode(indices, 0)
    np.testing.assert_allclose(none, decode(other, 0), atol=0)
    assert np.abs(one - none).max() > 1e-3 and np.abs(one - decode(indices)).max() > 1e-3
    lookup = functools.partial(
        model.apply,
        variables,
        indices,
        method=lambda module, *a, **k: module.quantizer.lookup(*a, **k),
    )
    np.testing.assert_array_equal(lookup(num_groups=0), 0)
    np.testing.assert_array_equal(lookup(num_groups=1)[..., 4:], 0)
    np.testing.assert_array_equal(lookup(num_groups=1)[..., :4], lookup()[..., :4])


def test_groups_do_not_mix_around_the_codebooks(model, variables):
    @jax.jit
    def second_group(shift):
        kernel = variables["params"]["quant_conv"]["kernel"]
        params = variables["params"] | {
            "quant_conv": variables["params"]["quant_conv"]
            | {"kernel": kernel.at[..., :4].add(shift)}  # outputs 0..3 belong to the first group
        }
        quantized = model.apply(variables | {"params": params}, IMAGES, method="encode")
        return quantized.indices[..., 1]

    np.testing.assert_array_equal(second_group(1.0), second_group(0.0))


def test_training_updates_the_statistics_and_every_parameter_has_a_gradient(model, variables):
    params = variables["params"]
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    @jax.jit
    def step(params):
        def loss(params):
            result, state = model.apply(
                {"params": params, **rest},
                IMAGES,
                train=True,
                rngs={"reseed": jax.random.key(1), "mask": jax.random.key(2)},
                mutable=list(rest),
            )
            terms = result.quantized.losses
            total = jnp.mean((result.images - IMAGES) ** 2)
            return total + terms["vq"].sum() + terms["commit"].sum(), state

        return jax.grad(loss, has_aux=True)(params)

    grads, state = step(params)
    assert set(state) == {"batch_stats", "codebook_stats"}
    assert state["batch_stats"]["decoder"]["stage1"]["block0"]["norm"]["count"] == 1
    still = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(grad).max() > 0
    ]
    assert still == []


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 20, 16, 3), "images of 20x16: both sides must be multiples of 8"),
        ((1, 16, 0, 3), "images of 16x0"),
        ((1, 16, 16, 1), r"images \(1, 16, 16, 1\) must be \[B, H, W, 3\]"),
        ((16, 16, 3), r"must be \[B, H, W, 3\]"),
    ],
)
def test_wrong_images_are_refused_before_anything_compiles(model, variables, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_wrong_indices_and_latents_are_refused(model, variables):
    def decode(x, method, **kwargs):
        apply = functools.partial(model.apply, method=method, **kwargs)
        return jax.eval_shape(apply, variables, x)

    with pytest.raises(ValueError, match=r"indices \(1, 2, 2, 3\) must be \[B, h, w, 2\]"):
        decode(jnp.zeros((1, 2, 2, 3), jnp.int32), "decode_indices")
    with pytest.raises(ValueError, match="indices must be integers, not float32"):
        decode(jnp.zeros((1, 2, 2, 2)), "decode_indices")
    with pytest.raises(ValueError, match=r"latents \(1, 2, 2, 4\) must be \[B, h, w, 8\]"):
        decode(jnp.zeros((1, 2, 2, 4)), "decode")
    with pytest.raises(ValueError, match="3"):
        decode(jnp.zeros((1, 2, 2, 2), jnp.int32), "decode_indices", num_groups=3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latent_channels": 16}, "the encoder makes 8 latent channels, the quantizer takes 16"),
        ({"num_groups": 3}, "8 latent channels do not split into 3 groups"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny.tokenizer(**change).init, jax.random.key(0), IMAGES)
