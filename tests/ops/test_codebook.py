import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.ops import codebook as ops

nearest_codeword = jax.jit(ops.nearest_codeword)
draw_tokens = jax.jit(ops.draw_tokens)
draw_probabilities = jax.jit(ops.draw_probabilities)


def draw_normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_nearest_codeword_by_hand():
    # Codewords point east, north and north-east; the long one has no advantage from its norm.
    codebook = jnp.array([[[9.0, 0.0], [0.0, 1.0], [0.1, 0.1]]])
    tokens = jnp.array([[[1.0, 0.1]], [[0.1, 5.0]], [[3.0, 2.0]], [[-1.0, -2.0]]])
    assert nearest_codeword(tokens, codebook)[:, 0].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("size", [1, 128, 300])
def test_nearest_codeword_equals_full_search_for_any_size(size):
    tokens, codebook = draw_normal(0, 70, 3, 8), draw_normal(1, 3, size, 8)
    unit = ops.l2_normalize(codebook)
    scores = np.einsum("ngd,gkd->ngk", np.float64(tokens), np.float64(unit))
    np.testing.assert_array_equal(nearest_codeword(tokens, codebook), scores.argmax(-1))


def test_first_of_equal_codewords_wins_within_and_across_blocks():
    distinct, tokens = draw_normal(0, 2, 50, 4), draw_normal(1, 200, 2, 4)
    indices = nearest_codeword(tokens, jnp.tile(distinct, (1, 7, 1)))
    scores = np.einsum("ngd,gkd->ngk", tokens, ops.l2_normalize(distinct))
    np.testing.assert_array_equal(indices, scores.argmax(-1))


def test_search_and_draw_never_hold_all_scores():
    tokens = jax.ShapeDtypeStruct((2048, 4, 8), jnp.float32)
    codebook = jax.ShapeDtypeStruct((4, 8192, 8), jnp.float32)
    key = jax.random.key(0)
    for function, inputs in (
        (nearest_codeword, (tokens, codebook)),
        (draw_tokens, (key, tokens, codebook)),
    ):
        memory = function.lower(*inputs).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.1 * 4 * 2048 * 4 * 8192


def test_zero_token_has_finite_gradient():
    gradient = jax.grad(lambda x: jnp.sum(ops.l2_normalize(x)))(jnp.zeros((2, 3)))
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(ops.l2_normalize(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_counts_perplexity_and_usage_by_hand():
    indices = jnp.array([[0, 1], [0, 2], [3, -1], [0, 2]])
    counts = ops.codeword_counts(indices, 4)
    assert counts.tolist() == [[3, 0, 0, 1], [0, 1, 2, 0]]
    weights = jnp.array([[1, 0], [0, 0], [1, 1], [1, 1]])
    assert ops.codeword_counts(indices, 4, weights).tolist() == [[2, 0, 0, 1], [0, 0, 1, 0]]
    np.testing.assert_allclose(ops.perplexity(jnp.ones((1, 8)) * 5), 8, rtol=1e-5)
    np.testing.assert_allclose(ops.perplexity(jnp.eye(1, 8) * 5), 1, rtol=1e-5)
    assert ops.recent_usage(indices.T, 4).tolist() == [0.5, 0.5]


def test_recent_buffer_keeps_the_newest_at_the_end():
    recent = jnp.full((1, 5), -1)
    recent = ops.push_recent(recent, jnp.array([[1], [2]]))
    assert recent.tolist() == [[-1, -1, -1, 1, 2]]
    assert ops.push_recent(recent, jnp.arange(3, 6)[:, None]).tolist() == [[1, 2, 3, 4, 5]]
    assert ops.push_recent(recent, jnp.arange(9)[:, None]).tolist() == [[4, 5, 6, 7, 8]]


def test_usage_moves_towards_the_batch_share_and_stays_without_tokens():
    ema = jnp.array([[0.5, 0.5], [0.2, 0.8]])
    new = ops.update_usage(ema, jnp.array([[3.0, 1.0], [0.0, 0.0]]), decay=0.1)
    np.testing.assert_allclose(new, [[0.525, 0.475], [0.2, 0.8]], rtol=1e-6)


def test_reseeding_replaces_the_unused_and_leaves_the_used():
    ema = jnp.array([[0.0, 1 / 4]])
    keep = ops.reseed_weight(jnp.pad(ema, ((0, 0), (0, 2))))[:, :2]
    np.testing.assert_allclose(keep, [[1 - np.exp(-0.001), 1.0]], rtol=1e-4)
    old, drawn = jnp.array([[[1.0, 0.0], [0.3, 0.7]]]), jnp.array([[[0.0, 1.0], [0.0, 1.0]]])
    new = ops.reseed(old, drawn, keep)
    np.testing.assert_allclose(new[0, 0], [0.001, 0.999], atol=1e-5)
    assert (new[0, 1] == old[0, 1]).all()


def draw_statistic(draw, tokens, codebook, copies, draws=20):
    """Pearson's chi-square of repeated draws per distinct codeword; about N - 1 if exact."""
    probabilities = np.asarray(draw_probabilities(tokens, codebook))  # [G, K, N]
    codebook = jnp.repeat(codebook, copies, 1)
    counts = np.zeros(probabilities.shape)
    for seed in range(draws):
        drawn = np.asarray(draw(jax.random.key(seed), tokens, codebook))
        drawn = drawn.reshape(*probabilities.shape[:2], copies)
        counts += (drawn[..., None] == np.arange(len(tokens))).sum(2)
    expected = probabilities * copies * draws
    return ((counts - expected) ** 2 / expected).sum(-1)


def test_draw_follows_the_exact_softmax():
    # 2 x 3 x 1000 codewords: long enough for the draw to move on to its shorter arrays.
    tokens, codebook = 3 * draw_normal(0, 25, 2, 3), draw_normal(1, 2, 3, 3)
    limit = 24 + 5 * np.sqrt(2 * 24)
    statistic = draw_statistic(draw_tokens, tokens, codebook, 1000)
    assert (statistic < limit).all(), statistic

    def draw_uniformly(key, tokens, codebook):
        return jax.random.randint(key, codebook.shape[:2], 0, len(tokens))

    wrong = draw_statistic(draw_uniformly, tokens, codebook, 1000)
    assert (wrong > 10 * limit).all(), "the bound would not notice a wrong draw"


def test_draw_probabilities_are_a_softmax_of_squared_distances():
    tokens, codebook = draw_normal(0, 6, 2, 4), draw_normal(1, 2, 3, 4)
    unit_tokens, unit_codewords = (np.asarray(ops.l2_normalize(x)) for x in (tokens, codebook))
    square = ((unit_codewords[:, :, None] - unit_tokens.swapaxes(0, 1)[:, None]) ** 2).sum(-1)
    expected = np.exp(-square) / np.exp(-square).sum(-1, keepdims=True)
    np.testing.assert_allclose(draw_probabilities(tokens, codebook), expected, rtol=1e-5)


def test_draw_ends_when_tokens_are_not_numbers():
    drawn = draw_tokens(jax.random.key(0), jnp.full((5, 2, 4), jnp.nan), draw_normal(0, 2, 3, 4))
    assert ((drawn >= 0) & (drawn < 5)).all()
