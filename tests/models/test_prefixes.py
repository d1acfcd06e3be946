"""What a codec keeps first where prefixes are looked at."""

import jax
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.vector_quantizer import VectorQuantizer


@pytest.fixture(scope="module")
def single():
    """(codec, weights, code) of one codebook in four channels."""
    quantizer = VectorQuantizer(codebook_size=stubs.SIZE, latent_channels=4)
    codec = stubs.codec_of(
        Tokenizer(encoder=stubs.PatchEncoder(), quantizer=quantizer, decoder=stubs.PatchDecoder())
    )
    weights = stubs.weights_of(codec.module)
    return codec, weights, jax.jit(codec.encode)(weights, stubs.images(2))


def test_one_codebook_is_kept_by_components_of_its_codewords(single):
    codec, weights, code = single
    assert codec.units.total == 1
    assert codec.prefixes[:3] == ("components", 4, (1, 2, 4))
    decode = jax.jit(codec.decode_prefix)
    whole = codec.decode(weights, code, 1, None)
    np.testing.assert_allclose(decode(weights, code, 4, None), whole, atol=1e-4)
    errors = [np.mean((decode(weights, code, k, None) - whole) ** 2) for k in (0, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[2] > 1e-3


def test_what_has_an_order_is_kept_by_its_units():
    codec = stubs.codec_of(stubs.grouped_tokenizer())
    weights = stubs.weights_of(codec.module)
    code = jax.jit(codec.encode)(weights, stubs.images(1))
    assert codec.prefixes == codec.units
    np.testing.assert_array_equal(
        codec.decode_prefix(weights, code, 1, None), codec.decode(weights, code, 1, None)
    )
    for other in (stubs.autoencoder(), stubs.semanticist()):
        assert stubs.codec_of(other).prefixes == stubs.codec_of(other).units


def test_tokens_are_what_the_quantizer_takes(single):
    codec, weights, code = single
    tokens = jax.jit(codec.tokens)(weights, stubs.images(2))
    assert tokens.shape == (2, 4, 4, 4)
    codebook = np.asarray(weights.variables["params"]["quantizer"]["codebook"])[0]
    nearest = np.argmin(np.sum((np.asarray(tokens)[..., None, :] - codebook) ** 2, -1), -1)
    np.testing.assert_array_equal(code[..., 0], nearest)
