import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.nn.transformer import (
    Block,
    PatchEmbed,
    SelfAttention,
    layer_norm,
    recomputed,
    scan_blocks,
)

TOKENS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16), np.float32))


class Stack(nn.Module):
    """Three blocks by one scan, each with its own drop rate."""

    recompute: str = "nothing"

    @nn.compact
    def __call__(self, x, drop_rates=None):
        block_class = Block
        if self.recompute != "nothing":
            block_class = recomputed(Block, everything=self.recompute == "everything")
        block = block_class(2, causal_from=2, name="blocks")
        return scan_blocks(block, lambda b, x, rate: b(x, rate), x, drop_rates, 3)


@pytest.fixture(scope="module")
def variables():
    return filled(Stack().init, TOKENS)


def test_layer_norm_of_two_numbers_is_plus_and_minus_one():
    norm = layer_norm(affine=False)
    np.testing.assert_allclose(norm.apply({}, jnp.array([1.0, 3.0])), [-1, 1], rtol=1e-6)
    # The mean is taken off before squares: 1e8 apart from 1 they would round it away.
    np.testing.assert_allclose(norm.apply({}, jnp.array([10000.0, 10002.0])), [-1, 1], rtol=1e-6)
    # eps 1e-6 is as large as this variance.
    halved = norm.apply({}, jnp.array([-1e-3, 1e-3]))
    np.testing.assert_allclose(halved, np.array([-1, 1]) / np.sqrt(2), rtol=1e-5)


def test_patches_are_a_strided_convolution():
    images = jnp.asarray(np.random.default_rng(2).standard_normal((2, 8, 12, 3), np.float32))
    embed = PatchEmbed(6, 4, nn.initializers.zeros)
    variables = filled(embed.init, images)
    expected = nn.Conv(6, (4, 4), strides=4, padding="VALID").apply(variables, images)
    np.testing.assert_allclose(embed.apply(variables, images), expected, atol=1e-6)


def test_a_scan_over_stacked_parameters_is_one_block_after_another(variables):
    x = TOKENS
    block = jax.jit(Block(2, causal_from=2).apply)
    for i in range(3):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], variables["params"]["blocks"])
        x = block({"params": layer}, x)
    np.testing.assert_allclose(jax.jit(Stack().apply)(variables, TOKENS), x, atol=1e-5)


def test_layers_start_different():
    params = jax.jit(Stack().init)(jax.random.key(0), TOKENS)["params"]["blocks"]
    kernel = params["attention"]["qkv"]["kernel"]
    assert kernel.shape == (3, 16, 48)
    assert not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.1)


def test_recomputing_changes_no_gradient_and_stores_less(variables):
    x = jnp.tile(TOKENS, (8, 1, 1))

    def gradient(stack):
        step = jax.jit(jax.grad(lambda v: jnp.sum(stack.apply(v, x) ** 2))).lower(variables)
        compiled = step.compile()
        return compiled(variables), compiled.memory_analysis().temp_size_in_bytes

    expected, size = gradient(Stack())
    for recompute in ("cheap", "everything"):
        ours, smaller = gradient(Stack(recompute))
        assert smaller < 0.8 * size
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
            ours,
            expected,
        )
        size = smaller


def test_stochastic_depth_drops_branches_of_single_samples(variables):
    block = Block(2)
    params = jax.tree.map(lambda leaf: leaf[0], variables["params"]["blocks"])
    params["mlp"] = jax.tree.map(jnp.zeros_like, params["mlp"])  # leaves the attention branch
    x = jnp.tile(TOKENS[:1], (400, 1, 1))
    branch = (block.apply({"params": params}, x) - x)[0]
    rngs = {"drop_path": jax.random.key(0)}
    out = block.apply({"params": params}, x, jnp.float32(0.25), rngs=rngs) - x
    is_kept = np.abs(out).max(axis=(1, 2)) > 1e-6
    np.testing.assert_allclose(
        out[is_kept], np.tile(branch / 0.75, (is_kept.sum(), 1, 1)), atol=1e-5
    )
    assert 0.68 < is_kept.mean() < 0.82  # three standard deviations of 400 draws at 0.75


def test_each_layer_of_a_scan_has_its_own_drop_rate_and_draws(variables):
    @jax.jit
    def apply(rates, seed):
        return Stack().apply(variables, TOKENS, rates, rngs={"drop_path": jax.random.key(seed)})

    def run(rates, seed=0):
        return apply(jnp.asarray(rates, jnp.float32), seed)

    undropped = jax.jit(Stack().apply)(variables, TOKENS)
    np.testing.assert_allclose(run([0, 0, 0]), undropped, atol=1e-6)
    # Almost sure to be left out: only the first block is seen.
    first = jax.tree.map(lambda leaf: leaf[0], variables["params"]["blocks"])
    only_first = Block(2, causal_from=2).apply({"params": first}, TOKENS)
    np.testing.assert_allclose(run([0, 1 - 1e-6, 1 - 1e-6]), only_first, atol=1e-5)
    assert not np.array_equal(run([0.5] * 3), run([0.5] * 3, seed=1))


def test_split_over_devices_it_is_what_one_device_computes(variables):
    x = jnp.tile(TOKENS, (4, 1, 1))
    expected = jax.jit(Stack().apply)(variables, x)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        batch = jax.device_put(x, jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
        # The kernels' inputs are split over fsdp.
        split = jax.tree.map(
            lambda leaf: jax.device_put(
                leaf, jax.NamedSharding(mesh, jax.P(None, "fsdp") if leaf.ndim == 3 else jax.P())
            ),
            variables,
        )
        out = jax.jit(Stack().apply)(split, batch)
    assert out.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_attention_is_traced_at_once_for_all_heads():
    """One product for q, k and v: 3 of D x D would have three times as many kernels."""
    shapes = jax.eval_shape(SelfAttention(4).init, jax.random.key(0), TOKENS)
    leaves = jax.tree.map(lambda leaf: leaf.shape, shapes["params"])
    assert leaves == {
        "qkv": {"kernel": (16, 48), "bias": (48,)},
        "proj": {"kernel": (16, 16), "bias": (16,)},
    }
