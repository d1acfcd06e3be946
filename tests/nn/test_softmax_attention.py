import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.nn.softmax_attention import attend, attend_causally

# Who sees whom when tokens are causal from the third one on.
MASK = jnp.array(
    [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ],
    bool,
)


def heads(seed=1, tokens=5):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, 3, tokens, 4)) for _ in range(3)]


def textbook(q, k, v, mask):
    """The definition, in the dtype of its arguments."""
    logits = jnp.where(mask, jnp.einsum("bmnd,bmjd->bmnj", q, k) / 2, -jnp.inf)
    x = jnp.einsum("bmnj,bmjd->bnmd", jax.nn.softmax(logits), v)
    return x.reshape(*x.shape[:2], -1)


@pytest.mark.parametrize("mask", [MASK, None], ids=["masked", "everything"])
def test_values_and_gradients_are_those_of_the_definition_in_float64(mask):
    whole = jnp.ones_like(MASK) if mask is None else mask
    out_weights = np.random.default_rng(2).standard_normal((2, 5, 12))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, jnp.float64) for a in heads()]
        expected, pull = jax.vjp(lambda *a: textbook(*a, whole), *arrays)
        expected, gradients = jax.device_get((expected, pull(jnp.asarray(out_weights))))
    arrays = [jnp.asarray(a, jnp.float32) for a in heads()]
    out, pull = jax.vjp(lambda *a: attend(*a, mask), *arrays)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for ours, theirs in zip(pull(jnp.asarray(out_weights, jnp.float32)), gradients, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


def test_equal_keys_average_the_values_and_the_mask_leaves_rows_out():
    v = jnp.arange(5.0).reshape(1, 1, 5, 1)
    averages = attend(jnp.ones_like(v), jnp.ones_like(v), v, MASK).ravel()
    np.testing.assert_allclose(averages, [0.5, 0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    everything = attend(jnp.ones_like(v), jnp.ones_like(v), v).ravel()
    np.testing.assert_allclose(everything, [2.0] * 5, rtol=1e-6)


@pytest.mark.parametrize("start", [1, 2, 4])
def test_causal_attention_is_masked_attention(start):
    q, k, v = (jnp.asarray(a, jnp.float32) for a in heads())
    mask = np.tri(5, dtype=bool)
    mask[:start, :start] = True
    ours = attend_causally(q, k, v, start)
    np.testing.assert_allclose(ours, attend(q, k, v, jnp.asarray(mask)), atol=1e-6)


def test_large_logits_of_bfloat16_heads_keep_a_float32_softmax():
    """exp(100) overflows nothing, and of 3 equal keys each gets a third."""
    q = jnp.full((1, 1, 3, 4), 10.0, jnp.bfloat16)
    v = jnp.arange(3.0).reshape(1, 1, 3, 1).astype(jnp.bfloat16)
    out, pull = jax.vjp(lambda v: attend(q, q, v), jnp.broadcast_to(v, q.shape))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, rtol=1e-2)
    (gradient,) = pull(jnp.ones_like(out))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), 1.0, rtol=1e-2)


def test_gradients_of_bfloat16_heads_are_as_near_to_float64_as_those_jax_derives():
    """Both round operands to 8 bits; ours must not add to it."""
    mask = jnp.tri(64, dtype=bool)
    with jax.enable_x64(True):
        exact = jax.grad(lambda *a: textbook(*a, mask).sum() ** 2, argnums=(0, 1, 2))(
            *(jnp.asarray(a, jnp.bfloat16).astype(jnp.float64) for a in heads(3, 64))
        )
        exact = jax.device_get(exact)
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in heads(3, 64)]

    def errors(function):
        def total(*a):
            return function(*a).astype(jnp.float32).sum() ** 2

        gradients = jax.grad(total, argnums=(0, 1, 2))(*arrays)
        pairs = zip(gradients, exact, strict=True)
        return [np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max() for a, b in pairs]

    ours = errors(lambda *a: attend(*a, mask))
    derived = errors(lambda *a: textbook(*a, mask))
    assert max(ours) < 1.5 * max(derived), (ours, derived)
