"""MGVQ's second stage: causality, sampling with a cache, its published sizes."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.models.index_sampling import sample_indices
from vqlab.models.index_transformer import SIZES, IndexTransformer
from vqlab.models.token_sampling import TokenSampling
from vqlab.ops.codebook import select_codewords

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = jnp.array([1, 2, 0])
GREEDY = TokenSampling.of(top_k=1)


def network(**settings):
    return IndexTransformer(
        **{
            "grid": (2, 3),
            "num_groups": 2,
            "codebook_size": 5,
            "latent_channels": 4,
            "num_classes": 3,
            "width": 16,
            "depth": 2,
            "num_heads": 2,
        }
        | settings
    )


def made(module):
    """(variables with every number random, codewords, the jitted full pass, the jitted sampler)."""
    shape = module.num_groups, module.codebook_size, module.latent_channels // module.num_groups
    codewords = jax.random.normal(jax.random.key(1), shape)
    zeros = jnp.zeros((3, module.num_positions, module.num_groups), jnp.int32)

    def full(variables, indices, labels):
        vectors = select_codewords(codewords, indices).reshape(*indices.shape[:2], -1)
        return module.apply(variables, vectors, indices, labels)

    vectors = jnp.zeros((*zeros.shape[:2], module.latent_channels))
    variables = filled(module.init, vectors, zeros, LABELS)

    def sample(variables, codewords, *rest):
        def look_up(indices):
            return select_codewords(codewords, indices).reshape(len(indices), -1)

        return sample_indices(module, variables, look_up, *rest)

    return variables, codewords, jax.jit(full), jax.jit(sample)


@pytest.fixture(scope="module")
def parts():
    return made(network())


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), 3)


def test_cached_sampling_equals_the_full_causal_pass(parts):
    variables, codewords, full, sample = parts
    indices = sample(variables, codewords, LABELS, keys(), GREEDY)
    np.testing.assert_array_equal(np.argmax(full(variables, indices, LABELS), -1), indices)
    scale = 2.5
    guided = TokenSampling.of(scale, top_k=1)
    indices = sample(variables, codewords, LABELS, keys(), guided)
    towards, away = (full(variables, indices, x) for x in (LABELS, jnp.full(3, 3)))
    np.testing.assert_array_equal(np.argmax(away + scale * (towards - away), -1), indices)


def test_no_index_depends_on_a_later_one(parts):
    variables, _, full, _ = parts
    indices = jax.random.randint(jax.random.key(2), (3, 6, 2), 0, 5)
    logits = full(variables, indices, LABELS)
    changed = full(variables, indices.at[:, 3, 1].add(1) % 5, LABELS)
    assert np.array_equal(changed[:, :4], logits[:, :4])  # itself too: it is predicted there
    assert not np.allclose(changed[:, 4], logits[:, 4])
    changed = full(variables, indices.at[:, 3, 0].add(1) % 5, LABELS)
    assert np.array_equal(changed[:, 3, 0], logits[:, 3, 0])
    assert not np.allclose(changed[:, 3, 1], logits[:, 3, 1])


def test_other_settings_compile_nothing_and_matter(parts):
    variables, codewords, _, sample = parts

    def run(seed=0, **settings):
        sampling = TokenSampling.of(**{"guidance_scale": 2.0} | settings)
        return np.asarray(sample(variables, codewords, LABELS, keys(seed), sampling))

    first = run()
    compiled = sample._cache_size()
    for settings in (
        {"guidance_scale": 30.0},
        {"guidance_scale": 30.0, "guidance_schedule": "linear"},
        {"guidance_scale": 30.0, "guidance_interval": 0},
        {"temperature": 0.0},
        {"temperature": 3.0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"seed": 1},
    ):
        assert not np.array_equal(run(**settings), first), settings
    assert sample._cache_size() == compiled
    assert np.array_equal(run(), first)
    assert np.array_equal(run(temperature=0.0), run(top_k=1))


def test_guidance_1_is_the_conditional_model_and_images_are_independent(parts):
    variables, codewords, _, sample = parts
    plain = sample(variables, codewords, LABELS, keys(), TokenSampling.of())
    both_halves = TokenSampling.of(2.0)
    both_halves = jax.tree.unflatten(
        jax.tree.structure(both_halves), jax.tree.leaves(TokenSampling.of(1.0))
    )
    assert both_halves.is_guided
    guided = sample(variables, codewords, LABELS, keys(), both_halves)
    np.testing.assert_array_equal(plain, guided)
    turned = sample(variables, codewords, LABELS[::-1], keys()[::-1], TokenSampling.of())
    np.testing.assert_array_equal(turned[::-1], plain)


def test_a_given_beginning_is_kept_and_continued(parts):
    variables, codewords, _, sample = parts
    whole = sample(variables, codewords, LABELS, keys(), GREEDY)
    others = (whole + 1) % 5
    result = sample(
        variables, codewords, LABELS, keys(), GREEDY, others.at[:, :2].set(whole[:, :2]), 2
    )
    np.testing.assert_array_equal(result, whole)
    result = sample(variables, codewords, LABELS, keys(), GREEDY, others, 2)
    np.testing.assert_array_equal(result[:, :2], others[:, :2])


def test_one_group_and_no_classes():
    module = network(num_groups=1, num_classes=0, depth=1, grid=(1, 3))
    variables, codewords, full, sample = made(module)
    with pytest.raises(ValueError, match="needs classes, and this generator has none: set guid"):
        sample(variables, codewords, LABELS, keys(), TokenSampling.of(3.0, top_k=1))
    indices = sample(variables, codewords, LABELS, keys(), TokenSampling.of(top_k=1))
    assert indices.shape == (3, 3, 1)
    np.testing.assert_array_equal(np.argmax(full(variables, indices, LABELS * 0), -1), indices)
    assert (indices == indices[0]).all()  # nothing tells the images apart


def test_published_sizes():
    sizes = json.loads((GOLDEN / "mgvq_ar_gpt_sizes.json").read_text())
    for name, official in sizes.items():
        size, block, groups = (
            name.removeprefix("GPT-").replace("block", "").replace("g", "").split("_")
        )
        width, depth, heads = SIZES[size]
        side, groups = math.isqrt(int(block)), int(groups)
        module = IndexTransformer(
            (side, side), groups, {4: 8192, 8: 2048}[groups], 32, 1000, width, depth, heads
        )
        shapes = jax.eval_shape(
            module.init,
            jax.random.key(0),
            jnp.zeros((1, int(block), 32)),
            jnp.zeros((1, int(block), groups), jnp.int32),
            jnp.zeros(1, jnp.int32),
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert count == official["total"] - official["unused_adaLN"], name


def test_wrong_settings_are_one_line():
    for settings, message in (
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"guidance_schedule": "cosine"}, "choose from"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenSampling.of(**settings)
    with pytest.raises(ValueError, match="top_k=6 is more than the 5 codewords"):
        TokenSampling.of(top_k=6).check_codebook(5)
    with pytest.raises(ValueError, match="width=18 does not split into 4 heads"):
        made(network(width=18, num_heads=4))
