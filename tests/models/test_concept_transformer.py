"""Semanticist's second stage: causality, sampling with a cache, its published size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.diffusion.ddpm import DDPM
from vqlab.diffusion.flow import Flow
from vqlab.models.concept_sampling import sample_concepts
from vqlab.models.concept_transformer import ConceptTransformer
from vqlab.models.token_sampling import TokenSampling

LABELS = jnp.array([1, 0])
MODULE = ConceptTransformer(
    num_kept=3,
    concept_dim=4,
    num_classes=2,
    width=8,
    depth=2,
    num_heads=2,
    process=Flow(time_scale=1.0),
    num_class_tokens=2,
    head_width=8,
    head_depth=1,
)


def shapes(module):
    concepts = jnp.zeros((2, module.num_kept, module.concept_dim))
    flat = concepts.reshape(-1, module.concept_dim)
    return concepts, LABELS, flat, jnp.zeros(len(flat))


@pytest.fixture(scope="module")
def variables():
    return filled(MODULE.init, *shapes(MODULE))


@jax.jit
def conditions(variables, concepts, labels):
    hidden = MODULE.apply(variables, concepts, labels, method="hidden")
    return MODULE.apply(variables, hidden, method="conditions")


@functools.partial(jax.jit, static_argnames="num_steps")
def sample(variables, sampling, labels=LABELS, given=None, num_given=0, *, num_steps=2):
    keys = jax.random.split(jax.random.key(0), 2)
    return sample_concepts(
        MODULE,
        variables,
        labels,
        keys,
        sampling,
        num_steps=num_steps,
        given=given,
        num_given=num_given,
    )


def test_cached_sampling_equals_the_full_causal_pass(variables):
    concepts, seen = sample(variables, TokenSampling.of(2.0))
    for half, labels in enumerate((LABELS, jnp.full(2, MODULE.num_classes))):
        full = conditions(variables, concepts, labels)
        np.testing.assert_allclose(
            seen[:, 2 * half : 2 * half + 2].swapaxes(0, 1), full, rtol=1e-5, atol=1e-5
        )


def test_no_condition_depends_on_its_own_concept_or_a_later_one(variables):
    concepts = jax.random.normal(jax.random.key(1), (2, 3, 4))
    before = conditions(variables, concepts, LABELS)
    after = conditions(variables, concepts.at[:, 1].add(1.0), LABELS)
    assert np.array_equal(before[:, :2], after[:, :2])
    assert not np.allclose(before[:, 2], after[:, 2])


def test_a_given_beginning_is_kept_and_continued(variables):
    sampling = TokenSampling.of(2.0)
    whole, _ = sample(variables, sampling)
    others = whole.at[:, 1:].set(9.0)
    continued, _ = sample(variables, sampling, LABELS, others, 1)
    np.testing.assert_allclose(continued, whole, rtol=1e-5, atol=1e-5)
    compiled = sample._cache_size()
    continued, _ = sample(variables, TokenSampling.of(3.0, "linear"), LABELS, others, 2)
    assert np.array_equal(continued[:, :2], others[:, :2])
    assert sample._cache_size() == compiled


def test_published_size():
    def count(conditioning, process):
        module = ConceptTransformer(
            32, 16, 1000, 1024, 24, 16, process, head_conditioning=conditioning
        )
        return sum(
            x.size
            for x in jax.tree.leaves(
                jax.eval_shape(module.init, jax.random.key(0), *shapes(module))
            )
        )

    # Semanticist's released GPT-L, which counts its parameters so when it is built.
    assert count("concat", Flow(time_scale=1.0)) == 488_566_800
    assert count("adaln", DDPM(schedule="cosine")) == 460_255_264
