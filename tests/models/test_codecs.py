import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.models.concept_decoding import decode_concepts

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def concepts():
    """(codec, weights, images, their code) of a Semanticist."""
    return _prepare(stubs.codec_of(stubs.semanticist(), num_steps=2, guidance_scale=2.0))


@pytest.fixture(scope="module")
def groups():
    return _prepare(stubs.codec_of(stubs.grouped_tokenizer()))


def _prepare(codec):
    weights = stubs.weights_of(codec.module)
    images = jnp.asarray(stubs.images(2))
    return codec, weights, images, jax.jit(codec.encode)(weights, images)


def test_codecs_say_what_their_codes_are(concepts, groups):
    latents = stubs.codec_of(stubs.autoencoder())
    names = [codec.name for codec in (concepts[0], groups[0], latents)]
    assert names == ["concepts", "indices", "latents"]
    assert [codec.codebook_size for codec in (concepts[0], groups[0], latents)] == [None, 8, None]
    # 4 x 4 positions of 2 groups of 3 bits.
    assert groups[0].bits(16, 16) == 96 and concepts[0].bits(16, 16) is latents.bits(8, 8) is None
    assert groups[0].sizes == {"num_groups": 2, "codebook_size": 8, "stride": 4}
    card = groups[0].card()
    assert card.title == "MGVQ" and card.facts["bits per pixel"] == "0.3750"
    assert "num_groups=2" in card.usage and "[B, h, w, 2]" in card.usage
    assert "[B, h, w, 4]" in latents.card().usage
    assert concepts[0].card().facts["sampling"] == "2 steps of ancestral, guidance 2 (constant)"


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (stubs.grouped_tokenizer, np.zeros((1, 4, 4, 3), int), r"must be \[B, h, w, 2\]"),
        (stubs.grouped_tokenizer, np.zeros((1, 4, 4, 2)), "must be integers, not float64"),
        (stubs.grouped_tokenizer, np.full((1, 4, 4, 2), 8), r"lie in \[8, 8\]; .* \[0, 7\]"),
        (stubs.autoencoder, np.zeros((1, 4, 4, 3)), r"must be \[B, h, w, 4\]"),
        (stubs.autoencoder, np.full((1, 4, 4, 4), np.nan), "latents hold NaN"),
        (stubs.semanticist, np.zeros((1, 4, 3)), r"must be \[B, 4, 4\]"),
    ],
)
def test_codes_of_others_are_named(model, code, message):
    with pytest.raises(ValueError, match=message):
        stubs.codec_of(model()).check_code(code)


def test_uint8_is_encoded_as_the_floats_that_it_stands_for(groups):
    codec, weights, _, _ = groups
    images_u8 = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    encode = jax.jit(codec.encode)
    floats = images_u8.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(encode(weights, images_u8), encode(weights, floats))
    with pytest.raises(ValueError, match="images are int32; give floats"):
        encode(weights, images_u8.astype(np.int32))


def test_levels_end_with_everything(concepts, groups):
    assert groups[0].units.levels == (1, 2) and concepts[0].units.levels == (1, 2, 4)
    node = stubs.semanticist_node()
    for part in ("encoder", "decoder"):
        node[part]["num_concepts"] = 6
    assert stubs.codec_of(stubs.models.build(node)).units.levels == (1, 2, 4, 6)


def test_what_the_sampler_cannot_take_is_an_error_at_once():
    model = stubs.semanticist()
    with pytest.raises(ValueError, match="nonsense"):
        stubs.codec_of(model, sampler="nonsense")
    with pytest.raises(ValueError, match="1001|num_steps"):
        stubs.codec_of(model, num_steps=1001)
    with pytest.raises(ValueError, match="schedule"):
        stubs.codec_of(model, guidance_schedule="nonsense")
    with pytest.raises(ValueError, match=r"guidance_interval=\(0.9, 0.1\)"):
        stubs.codec_of(model, guidance_interval=(0.9, 0.1))
    with pytest.raises(ValueError, match="guidance_scale=-1"):
        stubs.codec_of(model, guidance_scale=-1.0)


def test_setting_says_how_pictures_are_sampled():
    model = stubs.semanticist()
    assert stubs.codec_of(model, num_steps=2).setting == "2 steps of ancestral, no guidance"
    settings = {"guidance_schedule": "interval", "guidance_interval": (0.2, 0.8)}
    codec = stubs.codec_of(model, num_steps=2, guidance_scale=3.0, **settings)
    assert codec.setting == "2 steps of ancestral, guidance 3 (interval 0.2 to 0.8)"
    codec = stubs.codec_of(model, num_steps=2, guidance_scale=3.0, sampler="ddim")
    assert codec.setting == "2 steps of ddim, guidance 3 (constant)"


@pytest.mark.parametrize("kind", ["concepts", "groups"])
def test_units_beyond_the_first_k_change_nothing(kind, request):
    codec, weights, _, code = request.getfixturevalue(kind)
    decode = jax.jit(codec.decode)
    # Another code that agrees in the first unit: [B, S, D] and [B, h, w, G].
    other = code.at[:, 1:].add(1) if kind == "concepts" else code.at[..., 1:].set(0)
    pictures = decode(weights, code, 1, KEY)
    np.testing.assert_array_equal(pictures, decode(weights, other, 1, KEY))
    assert np.abs(pictures - decode(weights, code, 2, KEY)).max() > 1e-4
    none = decode(weights, code, 0, KEY)
    np.testing.assert_array_equal(none, decode(weights, jnp.zeros_like(code), 0, KEY))


def test_concepts_are_decoded_as_by_decode_concepts(concepts):
    codec, weights, _, code = concepts
    expected = decode_concepts(
        codec.module, weights.variables, {}, code, key=KEY, num_kept=2,
        guidance=codec.sampling.guidance, num_steps=2,
    )  # fmt: skip
    decode = jax.jit(codec.decode)
    np.testing.assert_allclose(decode(weights, code, 2, KEY), expected, atol=1e-4)
    # Another scale is an argument, not another program.
    other = codec.sampling.changed(guidance_scale=3.0)
    guided = decode(weights, code, 2, KEY, other)
    assert np.abs(guided - expected).max() > 1e-4
    decode(weights, code, 2, KEY, other.changed(guidance_scale=4.0))
    assert decode._cache_size() == 2


@pytest.mark.parametrize("kind", ["concepts", "groups"])
def test_losses_of_several_numbers_are_those_of_each(kind, request):
    codec, weights, images, code = request.getfixturevalue(kind)
    losses = jax.jit(codec.losses)(weights, images, code, jnp.array([0, 1, 2]), KEY)
    alone = jax.jit(codec.losses)(weights, images, code, jnp.array([1]), KEY)
    assert losses.shape == (3, 2)
    np.testing.assert_allclose(losses[1], alone[0], rtol=1e-5)
    assert len(np.unique(losses)) == losses.size


def test_features_are_concepts_or_mean_codewords(concepts, groups):
    codec, weights, _, code = concepts
    np.testing.assert_array_equal(codec.features(weights, code), code)
    codec, weights, _, code = groups
    latents = codec.lookup(weights, code)
    features = codec.features(weights, code)
    assert features.shape == (2, 2, 2)
    np.testing.assert_allclose(features[:, 1], latents[..., 2:].mean((1, 2)), rtol=1e-6)


def test_an_autoencoder_keeps_all_or_nothing():
    codec, weights, images, code = _prepare(stubs.codec_of(stubs.autoencoder()))
    decode = jax.jit(codec.decode)
    whole = jax.jit(codec.module.apply)(weights[0], images).images
    np.testing.assert_allclose(decode(weights, code, 1, KEY), whole, atol=1e-5)
    nothing = decode(weights, code, 0, KEY)
    np.testing.assert_array_equal(nothing[0], nothing[1])
    np.testing.assert_allclose(codec.features(weights, code)[:, 0], code.mean((1, 2)), rtol=1e-6)
    losses = jax.jit(codec.losses)(weights, images, code, jnp.array([0, 1]), KEY)
    assert losses.shape == (2, 2) and codec.units.levels == ()
