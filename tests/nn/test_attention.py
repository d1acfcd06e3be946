import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.nn.attention import LinearAttention, relu_attention


def reference(q, k, v):
    """The definition, token by token, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (np.maximum(q, 0), np.maximum(k, 0), v))
    weights = np.einsum("bnmd,bjmd->bmnj", q, k)
    weights /= weights.sum(-1, keepdims=True) + 1e-15
    return np.einsum("bmnj,bjmd->bnmd", weights, v)


@pytest.mark.parametrize("num_tokens", [5, 8, 9, 40])  # width 8: quadratic up to 8 tokens
def test_both_forms_are_the_same_function(num_tokens):
    rng = np.random.default_rng(num_tokens)
    q, k, v = jnp.asarray(rng.standard_normal((3, 2, num_tokens, 2, 8), np.float32))
    np.testing.assert_allclose(relu_attention(q, k, v), reference(q, k, v), atol=1e-5)


@pytest.mark.parametrize("num_tokens", [4, 16])
def test_a_token_without_weights_gives_zeros_and_finite_gradients(num_tokens):
    k, v = jnp.ones((2, 1, num_tokens, 1, 8))
    q = -jnp.ones_like(k)  # the ReLU leaves nothing
    np.testing.assert_array_equal(relu_attention(q, k, v), 0)
    grads = jax.grad(lambda *qkv: relu_attention(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)


def test_q_k_v_lie_side_by_side_in_every_head():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 64), np.float32))
    layer = LinearAttention("rms_norm")
    params = filled(functools.partial(layer.init, train=False), x)["params"]
    # Swapping the two heads in qkv and in proj changes nothing.
    heads = jnp.roll(jnp.arange(192).reshape(2, 96), 1, axis=0).reshape(-1)
    rows = jnp.roll(jnp.arange(64).reshape(2, 32), 1, axis=0).reshape(-1)
    swapped = params | {
        "qkv": {"kernel": params["qkv"]["kernel"][..., heads]},
        "proj": {"kernel": params["proj"]["kernel"][:, :, rows]},
    }
    expected = layer.apply({"params": params}, x, False)
    # But for rounding: proj sums over heads in another order.
    np.testing.assert_allclose(
        layer.apply({"params": swapped}, x, False), expected, atol=1e-6 * np.abs(expected).max()
    )


def test_channels_that_do_not_split_into_heads_are_refused():
    with pytest.raises(ValueError, match="48 channels do not split into heads of 32"):
        LinearAttention("rms_norm").init(jax.random.key(0), jnp.zeros((1, 2, 2, 48)), False)
