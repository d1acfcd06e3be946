import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.nn.layers import (
    BatchNorm,
    DepthwiseConv,
    GroupedPointwise,
    RMSNorm,
    activation,
    conv,
    norm,
)


def test_rms_norm_by_hand():
    # mean square of (3, 4) is 12.5; no mean is subtracted.
    x = jnp.array([[3.0, 4.0]])
    params = {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.5, 0.0])}
    y = RMSNorm().apply({"params": params}, x)
    root = np.sqrt(12.5 + 1e-5)
    np.testing.assert_allclose(y, [[6 / root + 0.5, 4 / root]], rtol=1e-6)


def test_rms_norm_computes_in_float32_and_answers_in_its_dtype():
    x = jnp.full((1, 2), 300.0, jnp.bfloat16)
    y, _ = RMSNorm(dtype="bfloat16").init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), [[1.0, 1.0]])


def test_batch_norm_normalises_with_the_biased_and_stores_the_unbiased_variance():
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1, 1, 1)  # mean 3, variance 3.5 or 14/3
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=True)
    assert variables["batch_stats"]["count"] == 0  # initialising is no training step
    y, state = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y[3, 0, 0, 0], 3 / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    stats = state["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [0.9 + 0.1 * 14 / 3], rtol=1e-6)
    assert stats["count"] == 1 and stats["count"].dtype == jnp.int32


def test_batch_norm_evaluates_with_the_running_statistics():
    x = jnp.array([[5.0], [7.0]])
    layer = BatchNorm()
    params = layer.init(jax.random.key(0), x, train=False)["params"]
    stats = {"mean": jnp.array([5.0]), "var": jnp.array([4.0]), "count": jnp.int32(1)}
    y = layer.apply({"params": params, "batch_stats": stats}, x, train=False)
    np.testing.assert_allclose(y, [[0.0], [1.0]], atol=1e-5)


def test_batch_norm_statistics_are_those_of_the_global_batch():
    x = np.random.default_rng(1).standard_normal((8, 2, 2, 3), np.float32)
    layer = BatchNorm()
    variables = filled(functools.partial(layer.init, train=True), x)

    @jax.jit
    def step(x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    for ours, whole in zip(jax.tree.leaves(step(split)), jax.tree.leaves(step(x)), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-6)


def test_conv_keeps_the_grid_and_draws_as_pytorch():
    layer = conv(64, 3)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 7, 32)))
    kernel = variables["params"]["kernel"]
    assert y.shape == (1, 5, 7, 64) and kernel.shape == (3, 3, 32, 64)
    bound = 1 / np.sqrt(3 * 3 * 32)  # 1 / sqrt(fan_in)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert not variables["params"]["bias"].any()


@pytest.mark.parametrize(
    ("layer", "kernel_size", "groups"), [(DepthwiseConv(), 3, 6), (GroupedPointwise(6, 2), 1, 2)]
)
def test_channel_groups_are_the_grouped_convolution(layer, kernel_size, groups):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 7, 6), np.float32))
    size = (kernel_size, kernel_size)
    grouped = nn.Conv(6, size, padding=kernel_size // 2, feature_group_count=groups)
    variables = filled(layer.init, x)
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes == jax.tree.map(jnp.shape, filled(grouped.init, x))

    def value_and_grad(layer):
        def loss(variables, x):
            return jnp.sum(jnp.sin(layer.apply(variables, x)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x)

    for ours, theirs in zip(
        jax.tree.leaves(value_and_grad(layer)),
        jax.tree.leaves(value_and_grad(grouped)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_unknown_names_list_the_choices():
    with pytest.raises(
        ValueError, match=r"unknown activation 'gelu'; choose from \['relu', 'silu'\]"
    ):
        activation("gelu")
    with pytest.raises(ValueError, match=r"unknown norm 'layer'.*'batch_norm', 'rms_norm'"):
        norm("layer")
