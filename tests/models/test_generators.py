"""Whole second stages: what they take of tokenizers, and their scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_generator
from tests.filled import zeros
from tests.test_seams import Strips
from vqlab import models
from vqlab.export.package import abstract_weights
from vqlab.models.codec import Weights
from vqlab.models.generator import in_use
from vqlab.models.generator_sampling import GeneratorSampling


@pytest.fixture(scope="module")
def index():
    """(the whole network, its weights)."""
    node = tiny_generator.index_node()
    frozen = {"tokenizer": tiny_generator.variables(node["tokenizer"])}
    return models.build(node), Weights(tiny_generator.variables(node), frozen)


def test_equal_logits_cost_log2_of_the_codewords(index):
    module, weights = index
    indices = jax.random.randint(jax.random.key(0), (2, 4, 4, 2), 0, 16)
    variables = zeros(module.init, jnp.zeros((1, 8, 8, 3)))
    score = jax.jit(module.codec().score)
    scores = score(Weights(variables, weights.frozen), indices, jnp.array([0, 7]), None)
    assert set(scores) == set(module.codec().scores)
    np.testing.assert_allclose(scores["bits_per_index"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(scores["bits_per_index_g1"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(scores["bits_per_dimension"], 4 * 32 / (3 * 64), rtol=1e-6)


def test_codewords_as_read_have_length_1_and_as_stored_do_not(index):
    module, weights = index
    indices = jnp.arange(32).reshape(16, 2) % 16
    read = module.inputs(weights.frozen, indices).reshape(16, 2, 4)
    np.testing.assert_allclose(jnp.linalg.norm(read, axis=-1), 1, rtol=1e-5)
    stored = models.build(tiny_generator.index_node(codewords="stored"))
    raw = stored.inputs(weights.frozen, indices).reshape(16, 2, 4)
    codebook = weights.frozen["tokenizer"]["params"]["quantizer"]["codebook"]
    np.testing.assert_array_equal(raw[3, 1], codebook[1, indices[3, 1]])
    np.testing.assert_allclose(raw / jnp.linalg.norm(raw, axis=-1, keepdims=True), read, rtol=1e-5)


@pytest.mark.parametrize("quantizer", ["residual_quantizer", "fsq"])
def test_any_tokenizer_with_indices_will_do(quantizer):
    """Shapes of what is sampled; nothing is computed."""
    sizes = {"num_groups": 3} if quantizer == "residual_quantizer" else {}
    nodes = {
        "fsq": {"name": "fsq", "levels": (4, 5, 2, 5, 3, 2, 2, 2)},
        "residual_quantizer": {"codebook_size": 16, "latent_channels": 8},
    }
    node = tiny_generator.index_node(num_classes=0, width=48)
    node["tokenizer"]["quantizer"] = {"name": quantizer} | nodes[quantizer] | sizes
    module = models.build(node)
    made, sampled = traced(module)
    groups = module.tokenizer.quantizer.num_groups
    assert made.shape == sampled.shape == (2, 4, 4, groups) and sampled.dtype == jnp.int32


def traced(module):
    """Shapes of two codes that the tokenizer makes, and of two that are drawn."""
    side, generator = module.image_size, module.codec()
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    weights = abstract_weights(module)
    keys = jax.random.split(jax.random.key(0), 2)
    labels = jnp.zeros(2, jnp.int32)
    return (
        jax.eval_shape(generator.encode, weights, images),
        jax.eval_shape(generator.sample, weights, labels, keys, generator.sampling),
    )


def test_a_sequence_of_tokens_has_one_row(monkeypatch):
    monkeypatch.setitem(models.MODULES, "strips", Strips)
    quantizer = tiny_generator.index_tokenizer()["quantizer"]
    tokenizer = {"name": "strips", "quantizer": quantizer}
    module = models.build(tiny_generator.index_node(tokenizer=tokenizer, image_size=16))
    assert module.grid == (1, 4)
    made, sampled = traced(module)
    assert made.shape == sampled.shape == (2, 4, 2)


def test_concepts_beyond_those_that_are_modelled_are_zeros_and_unread():
    node = tiny_generator.concept_node()
    module = models.build(node)
    generator = in_use(module, {"num_steps": 2, "decoding": {"num_steps": 2}})
    frozen = {"tokenizer": tiny_generator.variables(node["tokenizer"])}
    weights = Weights(tiny_generator.variables(node), frozen)
    assert generator.num_positions == 3 and generator.sampling.decoding.num_steps == 2
    labels, keys = jnp.array([0, 7]), jax.random.split(jax.random.key(0), 2)
    code = jax.eval_shape(generator.sample, weights, labels, keys, generator.sampling)
    assert code.shape == (2, 4, 4)
    concepts = jax.random.normal(jax.random.key(1), (2, 4, 4))
    score = jax.jit(generator.score)
    loss = score(weights, concepts, labels, keys[0])["loss"]
    assert loss.shape == (2,) and (loss > 0).all()
    other = score(weights, concepts.at[:, 3].add(9.0), labels, keys[0])["loss"]
    np.testing.assert_array_equal(other, loss)


def test_what_does_not_fit_is_one_line():
    vae = tiny_generator.index_tokenizer()
    vae["encoder"] |= {"latent_channels": 16}
    vae["quantizer"] = {"name": "gaussian_bottleneck", "latent_channels": 8}
    for node, message in (
        (tiny_generator.index_node(tokenizer=vae), "needs a tokenizer with indices; .* latents"),
        (tiny_generator.concept_node(tokenizer=vae), "needs a tokenizer with concepts; .* latents"),
        (tiny_generator.concept_node(num_kept=5), "num_kept=5 is out of range: choose 1..4"),
    ):
        with pytest.raises(ValueError, match=message):
            models.build(node)
    concepts = models.build(tiny_generator.concept_node())
    for settings, message in (
        ({"top_k": 2}, "top_k and top_p cut indices; this generator draws concepts"),
        ({"num_steps": 1}, "num_steps=1 is out of range"),
        ({"sampler": "ddim"}, "unknown sampler 'ddim'"),
    ):
        with pytest.raises(ValueError, match=message):
            in_use(concepts, settings)
    for node in (
        tiny_generator.index_node(num_classes=0),
        tiny_generator.concept_node(num_classes=0),
    ):
        module = models.build(node)
        assert "guidance" not in module.codec().card().usage
        with pytest.raises(ValueError, match="guidance_scale=2.0 needs classes, .* has none"):
            in_use(module, {"guidance_scale": 2.0})


def test_settings_go_to_plain_numbers_and_back():
    settings = {"guidance_scale": 2.0, "guidance_schedule": "linear", "top_k": 3}
    sampling = GeneratorSampling.of(**settings, decoding={"num_steps": 4})
    assert GeneratorSampling.of(**sampling.settings()) == sampling
    changed = sampling.changed(top_k=None, temperature=0.5)
    assert (changed.tokens.top_k, changed.tokens.temperature) == (3, 0.5)
    assert changed.decoding.num_steps == 4
