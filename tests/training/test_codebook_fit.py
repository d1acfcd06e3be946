import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vqlab.data.token_clouds import anisotropic
from vqlab.nn.vector_quantizer import VectorQuantizer
from vqlab.training.codebook_fit import CodebookFit

SIZE = 8
TOKENS = jnp.asarray(anisotropic(500, 4, seed=0))
KEY = jax.random.key(0)


def _fit(num_groups, *, reseed=True):
    quantizer = VectorQuantizer(codebook_size=SIZE, latent_channels=4 // num_groups, reseed=reseed)
    return CodebookFit(quantizer, num_groups, optax.adam(1e-2), batch_size=32, deviation=1.0)


@pytest.fixture(scope="module")
def grouped():
    fit = _fit(2)
    return fit, fit.init(KEY, TOKENS)


def test_steps_add_up_and_lose_less(grouped):
    fit, start = grouped
    once = fit.advance(fit.advance(start, KEY, TOKENS, 20), KEY, TOKENS, 20)
    again = fit.advance(fit.advance(start, KEY, TOKENS, 20), KEY, TOKENS, 20)
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert once.step == 40

    def error(state):
        return jnp.mean((fit.quantize(state, TOKENS)[0] - TOKENS) ** 2)

    assert error(once) < 0.5 * error(start)


def test_each_group_quantizes_its_own_channels(grouped):
    fit, state = grouped
    latents, indices = fit.quantize(state, TOKENS)
    codebooks = fit.codewords(state, SIZE)
    assert codebooks.shape == (2, SIZE, 2) and indices.shape == (500, 2)
    for group in range(2):
        own = TOKENS[:, 2 * group : 2 * group + 2]
        nearest = jnp.argmin(jnp.sum((own[:, None] - codebooks[group]) ** 2, -1), -1)
        np.testing.assert_array_equal(indices[:, group], nearest)
        np.testing.assert_allclose(
            latents[:, 2 * group : 2 * group + 2], codebooks[group][nearest], atol=1e-6
        )
    assert not np.array_equal(codebooks[0], codebooks[1])


def test_without_reseeding_only_codewords_with_tokens_move():
    fit = _fit(1, reseed=False)
    start = fit.init(KEY, TOKENS)
    far = start.params["codebook"].at[0, 0, 0].set(100.0)
    start = start._replace(params={**start.params, "codebook": far})
    moved = fit.advance(start, KEY, TOKENS, 20).params["codebook"][0, 0] - far[0, 0]
    assert np.all(np.abs(np.asarray(moved)).max(-1)[0] == 0) and np.any(moved != 0)


def test_errors():
    with pytest.raises(ValueError, match="4 channels do not split into 3 groups"):
        CodebookFit(_fit(1)._quantizer, 3, optax.sgd(0.1), 8).init(KEY, TOKENS)
    with pytest.raises(ValueError, match="both at least 1"):
        CodebookFit(_fit(1)._quantizer, 0, optax.sgd(0.1), 8)
