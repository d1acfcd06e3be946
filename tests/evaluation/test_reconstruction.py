import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation import reconstruction
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.reconstruction import ReconstructionEvaluator, describe
from vqlab.ops.pixels import mse_per_image

GROUPS, SIZE = stubs.GROUPS, stubs.SIZE


@pytest.fixture(scope="module")
def tokenizer():
    return stubs.grouped_tokenizer()


@pytest.fixture(scope="module")
def variables(tokenizer):
    return stubs.weights_of(tokenizer)


@pytest.fixture(scope="module")
def images():
    return stubs.images(5)


@pytest.fixture(scope="module")
def evaluated(tokenizer, variables, images):
    evaluator = ReconstructionEvaluator(
        stubs.codec_of(tokenizer), stubs.batches(images), num_images_kept=3
    )
    return evaluator, evaluator.measure(variables, {})


def _reconstruct(tokenizer, variables, images, num_groups):
    apply, images = variables.variables, jnp.asarray(images)
    encode = jax.jit(functools.partial(tokenizer.apply, method="encode"))
    decode = functools.partial(tokenizer.apply, num_groups=num_groups, method="decode_indices")
    indices = encode(apply, images).indices
    pictures = jax.jit(decode)(apply, indices)
    return np.asarray(pictures), np.asarray(indices)


def test_every_number_of_groups_equals_decode_indices(tokenizer, variables, images, evaluated):
    evaluator, results = evaluated
    for k in (1, 2):
        expected, _ = _reconstruct(tokenizer, variables, images, k)
        np.testing.assert_allclose(evaluator.reconstructions[k - 1], expected[[0, 1, 3]], atol=1e-5)
        mse = mse_per_image(jnp.asarray(images), jnp.asarray(expected))
        np.testing.assert_allclose(
            results[f"first_{k}/psnr"], -10 * np.log10(np.mean(mse)), rtol=1e-5
        )
    assert results["psnr"] == results["first_2/psnr"] != results["first_1/psnr"]
    # Three of the five, evenly spread.
    np.testing.assert_array_equal(evaluator.originals, np.asarray(images)[[0, 1, 3]])


def test_padding_counts_for_nothing(tokenizer, variables, images, evaluated):
    _, results = evaluated
    assert results["num_images"] == 5
    assert all(np.isfinite(value) for value in results.values())
    _, indices = _reconstruct(tokenizer, variables, images, None)
    for g in range(GROUPS):
        chosen = np.bincount(indices[..., g].ravel(), minlength=SIZE)
        assert results[f"usage_g{g}"] == np.mean(chosen > 0)


def test_rates_and_the_baseline(images, evaluated):
    _, results = evaluated
    assert results["bits_per_pixel"] == 2 * 3 / 16
    assert results["entropy_bits_per_pixel"] == pytest.approx(
        (results["entropy_g0"] + results["entropy_g1"]) / 16
    )
    mse = np.mean((images / 2).var((1, 2)).mean(-1))
    assert results["mean_colour/psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)
    assert results["images_per_second"] > 0


def test_every_number_has_its_protocol(evaluated):
    evaluator, results = evaluated
    assert evaluator.protocol.keys() == results.keys()
    units = stubs.codec_of(stubs.grouped_tokenizer()).units
    assert "of the mean MSE" in describe("psnr", units)
    assert "codewords" in describe("usage_g11", units)
    assert describe("first_1/psnr", units) == "as psnr, groups kept: first 1, the others zeros"
    assert describe("mean_colour/ssim", units).startswith("as ssim, of each image painted")
    assert all("\n" not in text and "{" not in text for text in evaluator.protocol.values())


def test_sharded_batches_give_the_same_numbers(tokenizer, variables, images, evaluated):
    devices = jax.devices()[:2]  # two where the suite forces eight
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batches = [jax.device_put(batch, sharding) for batch in stubs.batches(images)("validation")]
    evaluator = ReconstructionEvaluator(stubs.codec_of(tokenizer), lambda split: iter(batches))
    results = evaluator.measure(variables, {})
    timed = "images_per_second"
    for name in results.keys() - {timed}:
        assert results[name] == pytest.approx(evaluated[1][name], rel=1e-5)


def test_lpips_is_measured_when_its_weights_are_given(tokenizer, variables, images, monkeypatch):
    def distance(params, a, b):
        assert a.shape == b.shape
        return params["scale"] * jnp.abs(a - b).mean((1, 2, 3))

    monkeypatch.setattr(reconstruction, "lpips_distance", distance)
    codec, batches = stubs.codec_of(tokenizer), stubs.batches(images[:2])
    evaluator = ReconstructionEvaluator(codec, batches, networks=["lpips"])
    results = evaluator.measure(variables, {"lpips": {"scale": jnp.float32(2.0)}})
    clipped = np.clip(evaluator.reconstructions, -1, 1)
    expected = 2 * np.abs(images[:2] - clipped).mean((1, 2, 3, 4))
    assert results["first_1/lpips"] == pytest.approx(expected[0], rel=1e-5)
    assert results["lpips"] == pytest.approx(expected[1], rel=1e-5)
    with pytest.raises(ValueError, match="LPIPS.*weights were not given"):
        evaluator.measure(variables, {})


def test_no_images_is_an_error(tokenizer, variables):
    with pytest.raises(ValueError, match="no images"):
        ReconstructionEvaluator(stubs.codec_of(tokenizer), lambda split: []).measure(variables, {})


def test_the_mean_image_is_the_best_that_is_one_for_all(images, evaluated):
    _, results = evaluated
    mse = np.mean((images / 2).var(0))
    assert results["mean_image/psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)


def test_metrics_of_mgvq_keep_their_names(evaluated):
    quality = {"psnr", "psnr_mean", "ssim", "ssim_gaussian", "ssim_gaussian_valid"}
    ways = ("first_1", "first_2", "mean_colour", "mean_image")
    per_group = {f"{x}_g{g}" for x in ("usage", "perplexity", "entropy") for g in range(GROUPS)}
    rates = {"bits_per_pixel", "entropy_bits_per_pixel", "images_per_second", "num_images"}
    by_way = {f"{way}/{name}" for way in ways for name in quality}
    assert evaluated[1].keys() == quality | by_way | per_group | rates


def test_concepts_are_measured_at_every_level():
    codec = stubs.codec_of(stubs.semanticist(), num_steps=2)
    evaluator = ReconstructionEvaluator(codec, stubs.batches(stubs.images(3)))
    weights = stubs.weights_of(codec.module)
    results = evaluator.measure(weights, {})
    assert results["psnr"] == results["first_4/psnr"] != results["first_1/psnr"]
    assert not any("usage" in name or "bits" in name for name in results)
    assert evaluator.reconstructions.shape == (3, 3, *stubs.images(1).shape[1:])
    assert evaluator.protocol["first_2/ssim"] == (
        "as ssim, concepts kept: first 2, the others nulls"
    )
    assert "with all concepts" in evaluator.protocol["images_per_second"]
    # The noise is a function of the seed alone.
    again = ReconstructionEvaluator(codec, stubs.batches(stubs.images(3))).measure(weights, {})
    other = ReconstructionEvaluator(codec, stubs.batches(stubs.images(3)), seed=1)
    assert again["psnr"] == results["psnr"] != other.measure(weights, {})["psnr"]


def test_an_autoencoder_is_measured_whole():
    codec = stubs.codec_of(stubs.autoencoder())
    evaluator = ReconstructionEvaluator(codec, stubs.batches(stubs.images(3)))
    results = evaluator.measure(stubs.weights_of(codec.module), {})
    assert {name.split("/")[0] for name in results if "/" in name} == {"mean_colour", "mean_image"}
    assert evaluator.reconstructions.shape[0] == 1
    assert evaluator.headings({"psnr": 20.0}) == ["original", "reconstruction\n20.00 dB"]
    measured = Measured({f"x/{name}": value for name, value in results.items()}, {})
    *_, baselines = evaluator.sections("x", measured)
    assert baselines.heading == "Baselines" and "<td>mean image</td>" in baselines.body


def test_headings_carry_the_psnr_where_it_is_known(tokenizer):
    evaluator = ReconstructionEvaluator(stubs.codec_of(tokenizer), stubs.batches(stubs.images(2)))
    results = {"first_1/psnr": 18.25, "first_2/psnr": 21.0}
    assert evaluator.headings(results) == ["original", "1 group\n18.25 dB", "2 groups\n21.00 dB"]
    assert evaluator.headings({}) == ["original", "1 group", "2 groups"]


def test_sections_show_pictures_results_and_levels(evaluated):
    evaluator, results = evaluated
    measured = Measured({f"photos/{name}": value for name, value in results.items()}, {})
    pictures, table, levels = evaluator.sections("photos", measured)
    assert pictures.body.count("<img") == 3 * 3
    assert "<td>psnr</td>" in table.body and "first_1" not in table.body
    assert table.body.count("<img") == 1  # usage of the codebooks
    assert levels.heading == "By number of groups"
    assert all(f"<td>{label}</td>" in levels.body for label in ("first 1", "mean image"))
    assert levels.body.count("<img") == 2  # PSNR and SSIM
