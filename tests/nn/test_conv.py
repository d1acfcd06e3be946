import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled, zeros
from vqlab.nn.conv import Downsample, EfficientViTBlock, GLUMBConv, ResBlock, Upsample, block


@pytest.mark.parametrize("name, act", [("res", "relu"), ("evit_glu", "silu")])
def test_a_block_with_zero_weights_is_the_identity(name, act):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, 32), np.float32))
    layer = block(name)("rms_norm", act)
    init = functools.partial(layer.init, train=False)
    np.testing.assert_array_equal(layer.apply(zeros(init, x), x, False), x)
    assert np.abs(layer.apply(filled(init, x), x, False) - x).max() > 0.1


def test_res_block_by_hand():
    # 1x1 image: only the kernels' centres count. conv1 doubles, relu, conv2 subtracts; rms norm of
    # a single channel is its sign.
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    params = {
        "conv1": {"kernel": 2 * centre, "bias": jnp.zeros(1)},
        "conv2": {"kernel": -centre},
        "norm": {"scale": jnp.ones(1), "bias": jnp.full(1, 0.25)},
    }
    y = ResBlock("rms_norm", "relu").apply({"params": params}, jnp.full((1, 1, 1, 1), 3.0), False)
    np.testing.assert_allclose(y, 3.0 - 1.0 + 0.25, atol=1e-5)


def test_glu_gates_its_first_half_with_its_second():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 4), np.float32))
    layer = GLUMBConv("rms_norm", "silu")
    params = filled(functools.partial(layer.init, train=False), x)["params"]
    params = params | {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    hidden = params["depthwise"]["bias"].size
    assert hidden == 2 * 4 * 4 and params["depthwise"]["kernel"].shape == (3, 3, 1, hidden)
    # A closed gate (second half strongly negative) leaves the norm's bias alone.
    closed = params["depthwise"]["bias"].at[hidden // 2 :].set(-1e4)
    params = params | {"depthwise": params["depthwise"] | {"bias": closed}}
    np.testing.assert_allclose(layer.apply({"params": params}, x, False), 0, atol=1e-6)


def test_down_and_upsampling_shortcuts_carry_the_mean_and_the_copies():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    down = Downsample(4)
    y = down.apply(zeros(down.init, x), x)
    np.testing.assert_array_equal(y, jnp.arange(4.0).reshape(1, 1, 1, 4))
    up = Upsample(1)
    np.testing.assert_array_equal(up.apply(zeros(up.init, y), y), x)
    wide = jnp.concatenate([x, x + 10], axis=-1)
    averaged = down.apply(zeros(down.init, wide), wide)  # 8 packed channels in pairs into 4
    np.testing.assert_array_equal(averaged.reshape(-1), [0.5, 2.5, 10.5, 12.5])


def test_without_shortcut_zero_weights_give_zeros():
    x = jnp.ones((1, 2, 2, 4))
    for layer in (Downsample(8, shortcut=False), Upsample(3, shortcut=False)):
        assert not layer.apply(zeros(layer.init, x), x).any()


def test_activations_take_the_given_dtype_and_parameters_stay_float32():
    x = jnp.ones((1, 8, 8, 32), jnp.bfloat16)
    layer = EfficientViTBlock("rms_norm", "silu", dtype="bfloat16")
    init = functools.partial(layer.init_with_output, train=False)
    y, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_errors():
    with pytest.raises(ValueError, match=r"unknown block 'vit'; choose from \['evit_glu', 'res'\]"):
        block("vit")
    with pytest.raises(ValueError, match="a multiple of 4 channels, not 6"):
        Downsample(6).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))
