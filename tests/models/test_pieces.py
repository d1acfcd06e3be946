"""Images that are larger than a network's, coded piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.models.pieces import Pieces

SIZE = stubs.SIDE


@pytest.fixture(scope="module")
def tall():
    """Two images of two pieces, one over the other."""
    first, second = (jnp.asarray(stubs.images(2, seed)) for seed in (0, 1))
    return first, second, jnp.concatenate([first, second], axis=1)


def test_each_piece_is_coded_alone_and_put_back_in_its_place(tall):
    model = stubs.grouped_tokenizer()
    weights, own = stubs.weights_of(model), stubs.codec_of(model)
    codec = Pieces(own, SIZE)
    *pieces, images = tall
    code = jax.jit(codec.encode)(weights, images)
    assert code.shape == (2, 2, 1, 4, 4, 2) and codec.units == own.units
    alone = [own.encode(weights, piece) for piece in pieces]
    np.testing.assert_array_equal(code[:, 0, 0], alone[0])
    np.testing.assert_array_equal(code[:, 1, 0], alone[1])
    made = jax.jit(codec.decode)(weights, code, 1, jax.random.key(0))
    under = own.decode(weights, alone[1], 1, jax.random.key(0))
    assert made.shape == images.shape
    np.testing.assert_allclose(made[:, SIZE:], under, atol=1e-6)
    assert codec.bits(2 * SIZE, SIZE) == 2 * own.bits(SIZE, SIZE)
    losses = codec.losses(weights, images, code, jnp.array([1, 2]), None)
    by_piece = [
        own.losses(weights, piece, single, jnp.array([1, 2]), None)
        for piece, single in zip(pieces, alone, strict=True)
    ]
    np.testing.assert_allclose(losses, np.mean(by_piece, axis=0), rtol=1e-5)
    features = [own.features(weights, single) for single in alone]
    np.testing.assert_allclose(codec.features(weights, code), np.mean(features, axis=0), atol=1e-6)


def test_sizes_that_do_not_fit_are_one_line(tall):
    concepts = stubs.codec_of(stubs.semanticist())
    with pytest.raises(ValueError, match="^piece_size=8 is not the model's image size 16$"):
        Pieces(concepts, 8, "piece_size")
    codec = Pieces(concepts, SIZE)
    codec.check_images(tall[2])
    with pytest.raises(ValueError, match="^width=24 is no multiple of pieces of 16 pixels$"):
        codec.check_images(np.zeros((1, SIZE, 24, 3)))
