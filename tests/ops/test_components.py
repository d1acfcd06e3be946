import jax
import jax.numpy as jnp
import numpy as np

from vqlab.ops.components import keep_components

RNG = np.random.default_rng(0)
AMONG = (RNG.normal(size=(20, 5)) * [5, 3, 2, 1, 0.5] + 1).astype(np.float32)
VECTORS = RNG.normal(size=(2, 3, 5)).astype(np.float32)
keep = jax.jit(keep_components)  # one program for any number


def test_equals_the_singular_value_decomposition():
    mean = AMONG.astype(np.float64).mean(0)
    axes = np.linalg.svd(AMONG - mean, full_matrices=False)[2]
    for kept in (1, 3):
        wanted = mean + (VECTORS - mean) @ axes[:kept].T @ axes[:kept]
        np.testing.assert_allclose(keep(VECTORS, AMONG, kept), wanted, atol=1e-5)


def test_none_is_the_mean_and_all_are_the_vectors():
    np.testing.assert_allclose(
        keep(VECTORS, AMONG, 0), jnp.broadcast_to(AMONG.mean(0), (2, 3, 5)), atol=1e-6
    )
    np.testing.assert_allclose(keep(VECTORS, AMONG, 5), VECTORS, atol=1e-5)
