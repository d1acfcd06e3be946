"""TiTok's network and codec: the released arrays forward, prefixes, what does not fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vqlab
from tests import exports, tiny, tiny_titok
from tests.parity import titok as parity
from tests.parity.official import load, to_nhwc
from vqlab import models
from vqlab.export.package import abstract_variables
from vqlab.models.codec import Weights
from vqlab.models.titok import TiTok
from vqlab.training.objectives import OBJECTIVES

GOLDEN = Path(__file__).parent.parent / "golden" / "titok_tiny.npz"


@pytest.fixture(scope="module")
def released():
    """(arrays, config) of the released code."""
    return load(GOLDEN)


@pytest.fixture(scope="module")
def loaded(released, tmp_path_factory):
    """Its second stage, exported and loaded."""
    arrays, config = released
    _, variables = parity.load(arrays, config["sizes"], "stage2")
    path = tmp_path_factory.mktemp("released") / "titok"
    node = parity.node(config["sizes"], "stage2")
    variables = dict(jax.device_get(variables))
    exports.save(path, node, variables.pop("params"), variables)
    return vqlab.load(path)


@pytest.fixture(scope="module")
def code(released, loaded):
    """Of the released code's images."""
    return loaded.encode(to_nhwc(released[0]["in/x"]) * 2 - 1)


@pytest.fixture(scope="module")
def prefix(loaded):
    """code, num_kept, mean token -> images [-1, 1] of so many first tokens."""
    decode = jax.jit(loaded.codec.decode_prefix)
    stored = loaded.codec.mean_token(loaded.weights)

    def of(code, num_kept, mean=None):
        mean = stored if mean is None else mean
        return np.asarray(decode(loaded.weights, code, num_kept, None, mean))

    return of


def test_an_exported_folder_meets_the_released_arrays(released, loaded, code):
    arrays, _ = released
    np.testing.assert_array_equal(code[..., 0], arrays["out/stage2/indices"][:, 0])
    theirs = to_nhwc(arrays["out/stage2/decode_tokens"])
    assert np.mean((theirs > 0) & (theirs < 1)) > 0.3
    pixels = (loaded.decode(code) + 1) / 2
    np.testing.assert_allclose(pixels, np.clip(theirs, 0, 1), atol=1e-4 * theirs.max())
    assert (loaded.num_tokens, loaded.image_size, loaded.num_groups) == (8, 24, 1)
    assert loaded.codec.bits(24, 24) == 8 * 6


def test_the_first_tokens_are_kept_and_the_mean_stands_for_the_others(loaded, code, prefix):
    assert loaded.codec.prefixes[:3] == ("tokens", 8, (1, 2, 4, 8))
    whole = np.clip(prefix(code, 8), -1, 1)
    np.testing.assert_allclose(whole, loaded.decode(code), atol=1e-5)
    other = (code + 1) % loaded.codebook_size
    mixed = np.where(np.arange(8)[:, None] < 3, code, other)
    np.testing.assert_array_equal(prefix(code, 3), prefix(mixed, 3))
    assert np.abs(prefix(code, 4) - prefix(mixed, 4)).max() > 0
    np.testing.assert_array_equal(prefix(code, 0), prefix(other, 0))


def test_the_mean_token_is_of_training_or_given(loaded, code, prefix):
    codec, weights = loaded.codec, loaded.weights
    codewords = np.asarray(codec.lookup(weights, jnp.arange(loaded.codebook_size)[:, None]))
    # Nothing counted in converted weights: every codeword once.
    np.testing.assert_allclose(codec.mean_token(weights), codewords.mean(0), atol=1e-6)
    stats = weights.variables["codebook_stats"]["quantizer"]
    usage = jnp.zeros_like(stats["usage_ema"]).at[0, jnp.array([3, 5])].set(jnp.array([0.5, 0.25]))
    trained = {"quantizer": stats | {"usage_ema": usage}}
    trained = Weights({**weights.variables, "codebook_stats": trained}, {})
    mean = (2 * codewords[3] + codewords[5]) / 3
    np.testing.assert_allclose(codec.mean_token(trained), mean, atol=1e-6)
    of_images = codec.stand_in(weights, jnp.array([[[3], [3], [5]], [[3], [3], [5]]]))
    np.testing.assert_allclose(of_images, [mean, mean], atol=1e-6)
    of_code = of_images.mean(0)
    assert np.abs(prefix(code, 2, of_code) - prefix(code, 2)).max() > 0


def test_features_lay_token_beside_token(loaded):
    code = jnp.arange(16).reshape(2, 8, 1)
    features = loaded.codec.features(loaded.weights, code)
    assert features.shape == (2, 1, 8 * 6)
    vectors = loaded.lookup(code)
    np.testing.assert_array_equal(features[1, 0], vectors[1].ravel())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.decode(np.zeros((1, 9, 1), int)), r"indices \(1, 9, 1\) must be \[B, 8, 1\]"),
        (lambda t: t.decode(np.zeros((1, 7, 1), int)), r"indices \(1, 7, 1\) must be \[B, 8, 1\]"),
        (lambda t: t.decode(np.full((1, 8, 1), 64)), r"indices lie in \[64, 64\]"),
        (
            lambda t: t.codec.decode_prefix(t.weights, jnp.zeros((1, 8, 1), int), 9, None),
            "num_tokens=9 is out of range: choose 0..8",
        ),
        (
            lambda t: t.module.paint(t.weights, jnp.zeros((1, 9, 6))),
            r"latents \(1, 9, 6\) must be \[B, 8, 6\]",
        ),
        (lambda t: t.encode(np.zeros((1, 32, 32, 3))), "height=32 is not the model's image size"),
        (lambda t: t.encode(np.zeros((1, 24, 28, 3))), "width=28 is not the model's image size 24"),
        (lambda t: t.encode(np.zeros((1, 23, 24, 3))), "images of 23x24: .* multiples of 4"),
    ],
)
def test_what_it_cannot_take_is_one_line(loaded, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(loaded)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("pixels", {"encoder": {"num_tokens": 5}}, "encoder's num_tokens is 5, the decoder's 4"),
        ("pixels", {"encoder": {"image_size": 18}}, "encoder's image_size is 18, the decoder's"),
        ("pixels", {"encoder": {"latent_channels": 5}}, "makes 5 latent channels, the quantizer t"),
        ("pixels", {"encoder": {"num_heads": 3}}, "width 16 does not split into 3 heads"),
        ("pixels", {"decoder": {"patch_size": 3}}, "image_size=16 is no multiple of patch_size=3"),
        ("pixels", {"decoder": {"num_codes": 7}}, "logits of 7 codes and no pixel_tokenizer"),
        ("stage2", {"decoder": {"num_codes": 7}}, "has 32 codes, the decoder predicts 7"),
        ("stage2", {"decoder": {"patch_size": 4}}, "stride is 2, the decoder's patch_size 4"),
        (
            "pixels",
            {"quantizer": {"name": "gaussian_bottleneck"}},
            "TiTok's tokens are indices; .* has none",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named_before_anything_compiles(stage, changes, message):
    node = tiny_titok.node(stage, **changes)
    if "quantizer" in changes:
        node["quantizer"] = {"name": "gaussian_bottleneck", "latent_channels": 6}
    with pytest.raises(ValueError, match=message):
        abstract_variables(models.build(node))


def test_all_matrices_start_with_the_given_deviation():
    wide = {"width": 128, "kernel_deviation": 0.1}
    network = models.build(tiny_titok.node("pixels", encoder=wide, decoder=wide))
    params = jax.jit(network.init)(jax.random.key(0), tiny.images(1, 16))["params"]
    flat = flatten_dict(params, sep="/")
    kernels = {path: x for path, x in flat.items() if path.endswith("kernel")}
    del kernels["decoder/project_out/kernel"]  # a convolution
    assert len(kernels) == 2 * (4 + 2)  # of a block, and what is before and after all blocks
    for path, kernel in kernels.items():
        assert np.std(kernel) == pytest.approx(0.1, rel=0.1), path


def test_with_a_frozen_tokenizer_it_predicts_and_gives_no_images():
    module: TiTok = models.build(tiny_titok.node("stage1"))
    assert module.objective == "code_prediction" and list(module.frozen_parts())
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    with pytest.raises(ValueError, match="its objective is code_prediction"):
        jax.eval_shape(module.apply, abstract_variables(module), images)
    other = models.build(tiny_titok.node("pixels"))
    with pytest.raises(ValueError, match="is for a TiTok with a frozen pixel tokenizer"):
        OBJECTIVES["code_prediction"].create(other, None)
