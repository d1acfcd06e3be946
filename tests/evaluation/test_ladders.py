import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.ladders import AutoencoderLadder, ConceptLadder, GroupLadder, ladder_of
from vqlab.models.concept_decoding import decode_concepts
from vqlab.models.discriminator import PatchDiscriminator

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def concepts():
    """(ladder, weights, images, their code) of a Semanticist."""
    return _prepare(ladder_of(stubs.semanticist(), num_steps=2, guidance_scale=2.0))


@pytest.fixture(scope="module")
def groups():
    return _prepare(ladder_of(stubs.grouped_tokenizer()))


def _prepare(ladder):
    module = ladder.model if isinstance(ladder, ConceptLadder) else ladder.tokenizer
    params, variables = stubs.weights_of(module)
    weights = {"params": params, **variables}, {}
    images = jnp.asarray(stubs.images(2))
    return ladder, weights, images, jax.jit(ladder.encode)(weights, images)


def test_each_model_has_its_ladder(concepts, groups):
    assert type(concepts[0]) is ConceptLadder and type(groups[0]) is GroupLadder
    assert type(ladder_of(stubs.autoencoder())) is AutoencoderLadder
    with pytest.raises(ValueError, match="cannot evaluate a PatchDiscriminator"):
        ladder_of(PatchDiscriminator(channels=8, num_layers=2))


def test_levels_end_with_everything(concepts, groups):
    assert groups[0].levels == (1, 2) and concepts[0].levels == (1, 2, 4)
    node = stubs.semanticist_node()
    for part in ("encoder", "decoder"):
        node[part]["num_concepts"] = 6
    assert ladder_of(stubs.models.build(node)).levels == (1, 2, 4, 6)


def test_what_the_sampler_cannot_take_is_an_error_at_once():
    model = stubs.semanticist()
    with pytest.raises(ValueError, match="nonsense"):
        ladder_of(model, sampler="nonsense")
    with pytest.raises(ValueError, match="1001|num_steps"):
        ladder_of(model, num_steps=1001)
    with pytest.raises(ValueError, match="schedule"):
        ladder_of(model, guidance_schedule="nonsense")
    with pytest.raises(ValueError, match=r"guidance_interval=\(0.9, 0.1\)"):
        ladder_of(model, guidance_interval=(0.9, 0.1))
    with pytest.raises(ValueError, match="guidance_scale=-1"):
        ladder_of(model, guidance_scale=-1.0)


def test_setting_says_how_pictures_are_sampled():
    model = stubs.semanticist()
    assert ladder_of(model, num_steps=2).setting == "2 steps of ancestral, no guidance"
    settings = {"guidance_schedule": "interval", "guidance_interval": (0.2, 0.8)}
    ladder = ladder_of(model, num_steps=2, guidance_scale=3.0, **settings)
    assert ladder.setting == "2 steps of ancestral, guidance 3 (interval 0.2 to 0.8)"
    ladder = ladder_of(model, num_steps=2, guidance_scale=3.0, sampler="ddim")
    assert ladder.setting == "2 steps of ddim, guidance 3 (constant)"


@pytest.mark.parametrize("kind", ["concepts", "groups"])
def test_units_beyond_the_first_k_change_nothing(kind, request):
    ladder, weights, _, code = request.getfixturevalue(kind)
    decode = jax.jit(ladder.decode)
    # Another code that agrees in the first unit: [B, S, D] and [B, h, w, G].
    other = code.at[:, 1:].add(1) if kind == "concepts" else code.at[..., 1:].set(0)
    pictures = decode(weights, code, 1, KEY)
    np.testing.assert_array_equal(pictures, decode(weights, other, 1, KEY))
    assert np.abs(pictures - decode(weights, code, 2, KEY)).max() > 1e-4
    none = decode(weights, code, 0, KEY)
    np.testing.assert_array_equal(none, decode(weights, jnp.zeros_like(code), 0, KEY))


def test_concepts_are_decoded_as_by_decode_concepts(concepts):
    ladder, (variables, frozen), _, code = concepts
    expected = decode_concepts(
        ladder.model, variables, frozen, code, key=KEY, num_kept=2, guidance=ladder._guidance(),
        num_steps=2,
    )  # fmt: skip
    pictures = jax.jit(ladder.decode)((variables, frozen), code, 2, KEY)
    np.testing.assert_allclose(pictures, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["concepts", "groups"])
def test_losses_of_several_numbers_are_those_of_each(kind, request):
    ladder, weights, images, code = request.getfixturevalue(kind)
    losses = jax.jit(ladder.losses)(weights, images, code, jnp.array([0, 1, 2]), KEY)
    alone = jax.jit(ladder.losses)(weights, images, code, jnp.array([1]), KEY)
    assert losses.shape == (3, 2)
    np.testing.assert_allclose(losses[1], alone[0], rtol=1e-5)
    assert len(np.unique(losses)) == losses.size


def test_features_are_concepts_or_mean_codewords(concepts, groups):
    ladder, weights, _, code = concepts
    np.testing.assert_array_equal(ladder.features(weights, code), code)
    ladder, weights, _, code = groups
    latents = ladder.tokenizer.apply(weights[0], code, method=lambda m, x: m.quantizer.lookup(x))
    features = ladder.features(weights, code)
    assert features.shape == (2, 2, 2)
    np.testing.assert_allclose(features[:, 1], latents[..., 2:].mean((1, 2)), rtol=1e-6)


def test_an_autoencoder_keeps_all_or_nothing():
    ladder, weights, images, code = _prepare(ladder_of(stubs.autoencoder()))
    decode = jax.jit(ladder.decode)
    whole = jax.jit(ladder.tokenizer.apply)(weights[0], images).images
    np.testing.assert_allclose(decode(weights, code, 1, KEY), whole, atol=1e-5)
    nothing = decode(weights, code, 0, KEY)
    np.testing.assert_array_equal(nothing[0], nothing[1])
    np.testing.assert_allclose(ladder.features(weights, code)[:, 0], code.mean((1, 2)), rtol=1e-6)
    losses = jax.jit(ladder.losses)(weights, images, code, jnp.array([0, 1]), KEY)
    assert losses.shape == (2, 2) and ladder.levels == ()
