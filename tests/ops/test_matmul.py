"""The product of rows and a kernel, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops.matmul import matmul


@pytest.mark.parametrize("channels, features", [(3, 12), (3, 5), (5, 3)])
@pytest.mark.parametrize("leading", [(), (6,), (2, 3)])
def test_it_and_its_gradients_are_those_of_a_plain_product(channels, features, leading):
    rng = np.random.default_rng(0)
    x, kernel, g = (
        rng.normal(size=shape)
        for shape in ((*leading, channels), (channels, features), (*leading, features))
    )
    y, vjp = jax.vjp(lambda x, kernel: matmul(x, kernel, "highest"), *map(jnp.float32, (x, kernel)))
    dx, dkernel = jax.jit(vjp)(jnp.float32(g))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, g @ kernel.T, rtol=1e-5, atol=1e-6)
    rows = x.reshape(-1, channels).T @ g.reshape(-1, features)
    np.testing.assert_allclose(dkernel, rows, rtol=1e-5, atol=1e-6)


def test_dtypes_stay():
    x, kernel = jnp.ones((2, 3), "bfloat16"), jnp.ones((3, 4), "bfloat16")
    y, vjp = jax.vjp(matmul, x, kernel)
    assert {array.dtype for array in (y, *vjp(y))} == {jnp.dtype("bfloat16")}


def test_the_transpose_of_an_expansions_operand_is_written_out_on_cpus_only():
    def gradient(x, kernel):
        return jax.grad(lambda kernel: matmul(x, kernel).sum())(kernel)

    def barriers(features, platform):
        traced = jax.jit(gradient).trace(jnp.ones((8, 3)), jnp.ones((3, features)))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("optimization_barrier")

    counts = {platform: barriers(12, platform) for platform in ("cpu", "tpu", "cuda")}
    assert counts == {"cpu": 1, "tpu": 0, "cuda": 0}
    assert barriers(11, "cpu") == 0
