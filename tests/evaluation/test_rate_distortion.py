"""Rates that were worked out by hand, and distortions that other evaluators measure too."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.panels import Measured
from vqlab.evaluation.points import point_name, read_points
from vqlab.evaluation.rate_distortion import RateDistortion
from vqlab.evaluation.symbols import SymbolCounts
from vqlab.models.pieces import Pieces
from vqlab.nn.bottleneck import draw_posterior, kl_divergence, posterior

IMAGES = jnp.asarray(stubs.images())
PIXELS = stubs.SIDE**2
POSITIONS = (stubs.SIDE // stubs.STRIDE) ** 2


def measured(model, piece_size=0, **arguments):
    """(results, evaluator) over five images, the last batch half padding of NaN."""
    codec = stubs.codec_of(model)
    codec = Pieces(codec, piece_size) if piece_size else codec
    evaluator = RateDistortion(codec, stubs.batches(stubs.images()), **arguments)
    return evaluator.measure(stubs.weights_of(model), {}), evaluator


@pytest.fixture(scope="module")
def grouped():
    return measured(stubs.grouped_tokenizer())


@pytest.fixture(scope="module")
def gaussian():
    return measured(stubs.autoencoder(), steps=(1.0, 0.25))


def test_entropies_of_a_handful_of_symbols():
    counts = SymbolCounts(2)
    counts.add(np.array([[[0, 7], [1, 7]]]))
    counts.add(np.array([[[0, 7], [-3, 7]]]))
    assert counts.num_symbols == 4
    # Shares 1/2, 1/4, 1/4; and one value alone, which costs nothing.
    assert counts.entropies().tolist() == [1.5, 0.0]


@pytest.mark.parametrize(
    ("name", "model", "arguments"),
    [
        ("grouped", stubs.grouped_tokenizer, {}),
        ("gaussian", stubs.autoencoder, {"steps": (1.0, 0.25)}),
    ],
)
def test_what_codes_patch_by_patch_is_the_same_in_pieces(name, model, arguments, request):
    whole, _ = request.getfixturevalue(name)
    results, evaluator = measured(model(), stubs.SIDE // 2, **arguments)
    assert results.keys() == whole.keys() == evaluator.protocol.keys()
    for metric, value in whole.items():
        if not metric.startswith(("samples/psnr", "samples/ssim")):  # pieces have their own noise
            assert results[metric] == pytest.approx(value, rel=1e-5), metric


def test_indices_cost_their_entropy_and_their_fixed_length(grouped):
    results, _ = grouped
    model = stubs.grouped_tokenizer()
    weights = stubs.weights_of(model)
    indices = stubs.codec_of(model).encode(weights, IMAGES).reshape(-1, 2)
    bits = []
    for column in np.asarray(indices).T:
        shares = np.bincount(column) / len(column)
        bits.append(-sum(p * math.log2(p) for p in shares if p))
    for kept in (1, 2):
        point = f"first_{kept}/indices"
        assert results[f"{point}/fixed_bits_per_pixel"] == POSITIONS * kept * 3 / PIXELS
        expected = POSITIONS * sum(bits[:kept]) / PIXELS
        assert results[f"{point}/entropy_bits_per_pixel"] == pytest.approx(expected, rel=1e-6)
    assert results["indices/num_symbols"] == 5 * POSITIONS
    assert results["indices/fixed_bits_per_pixel"] == 2 * 3 / stubs.STRIDE**2


def psnr_of(model, code, kept):
    """Of pixels in [0, 1], clipped, from the mean squared error over all images."""
    made = stubs.codec_of(model).decode(stubs.weights_of(model), code, kept, jax.random.key(0))
    pairs = (np.clip(np.asarray(x, np.float64), -1, 1) / 2 for x in (IMAGES, made))
    return -10 * math.log10(np.mean(np.square(np.subtract(*pairs))))


def test_distortions_are_those_of_what_the_codes_decode_to(grouped):
    model = stubs.grouped_tokenizer()
    code = stubs.codec_of(model).encode(stubs.weights_of(model), IMAGES)
    for kept in (1, 2):
        value = grouped[0][f"first_{kept}/indices/psnr"]
        assert value == pytest.approx(psnr_of(model, code, kept), abs=1e-4)
    assert grouped[0]["first_2/indices/ssim"] == grouped[0]["indices/ssim"] < 1


def test_a_posterior_costs_its_divergence_and_decodes_from_samples(gaussian):
    results, _ = gaussian
    model = stubs.autoencoder()
    weights = stubs.weights_of(model)
    moments = model.apply(weights.variables, IMAGES, method="encode_unquantized")
    bits = float(kl_divergence(moments).mean()) / math.log(2)
    rate = results["samples/kl_bits_per_pixel"]
    assert rate == pytest.approx(bits / PIXELS, rel=1e-5)
    key = jax.random.fold_in(jax.random.key(0), 0)
    latents = draw_posterior(moments[:2], key)
    sent = stubs.codec_of(model).codings().ways[0].encode(weights, moments[:2], key, 0.0)
    np.testing.assert_array_equal(sent.code, latents)


def test_rounded_means_cost_the_entropy_of_each_channel(gaussian):
    results, _ = gaussian
    model = stubs.autoencoder()
    moments = model.apply(stubs.weights_of(model).variables, IMAGES, method="encode_unquantized")
    means = np.asarray(posterior(moments)[0])
    spread = math.sqrt(np.mean(means.astype(np.float64) ** 2))
    assert results["spread"] == pytest.approx(spread, rel=1e-5)
    for step in (1.0, 0.25):
        counts = SymbolCounts(4)
        counts.add(np.rint(means / np.float32(step * spread)).astype(int))
        expected = POSITIONS * counts.entropies().sum() / PIXELS
        rate = results[f"{point_name('means', step)}/entropy_bits_per_pixel"]
        assert rate == pytest.approx(expected, rel=1e-2)  # a mean may lie on an edge
        sent = jnp.asarray(np.rint(means / (step * spread)) * step * spread, jnp.float32)
        psnr = results[f"{point_name('means', step)}/psnr"]
        assert psnr == pytest.approx(psnr_of(model, sent, 1), abs=1e-2)
    assert not [name for name in results if "fixed" in name or name.startswith("first")]


def test_points_are_read_back_from_names(grouped, gaussian):
    results, evaluator = grouped
    points = read_points(results)
    assert [(p.coding, p.step, p.kept) for p in points] == [("indices", 0, 1), ("indices", 0, 2)]
    assert points[1].rates["fixed"] == results["indices/fixed_bits_per_pixel"]
    assert points[1].quality["psnr"] == results["indices/psnr"]
    found = [(p.coding, p.step, sorted(p.rates)) for p in read_points(gaussian[0])]
    assert found == [
        ("samples", 0, ["kl"]),
        ("means", 1.0, ["entropy"]),
        ("means", 0.25, ["entropy"]),
    ]
    assert set(evaluator.protocol) == set(results)


def test_the_report_has_a_row_for_each_point(grouped, gaussian):
    results, evaluator = grouped
    measured = Measured({f"rd/{name}": x for name, x in results.items()}, {})
    (section,) = evaluator.sections("rd", measured)
    assert "indices, 1 group<" in section.body and "indices, 2 groups<" in section.body
    assert section.body.count("<tr>") == 1 + 2 and "kl" not in section.body.lower()
    results, evaluator = gaussian
    measured = Measured({f"rd/{name}": x for name, x in results.items()}, {})
    (section,) = evaluator.sections("rd", measured)
    assert section.body.count("<tr>") == 1 + 3 and "KL (bits-back)" in section.body


def test_what_cannot_be_sent_is_said():
    make_batches = stubs.batches(stubs.images())
    with pytest.raises(ValueError, match="concepts are numbers: give steps to which they are"):
        RateDistortion(stubs.codec_of(stubs.semanticist()), make_batches, steps=())
    codec = stubs.codec_of(stubs.autoencoder())
    with pytest.raises(ValueError, match=r"steps=\(1.0, 0\) must all be above 0"):
        RateDistortion(codec, make_batches, steps=(1.0, 0))
    evaluator = RateDistortion(codec, make_batches, networks=("lpips",))
    with pytest.raises(ValueError, match="weights were not given"):
        evaluator.measure(stubs.weights_of(stubs.autoencoder()), {})


def test_concepts_cost_the_entropy_of_each_of_their_numbers():
    codec = stubs.codec_of(stubs.semanticist())
    codings = codec.codings((0.5,))
    concepts = jax.random.normal(jax.random.key(1), (3, stubs.CONCEPTS, stubs.CONCEPT_DIM))
    sent = codings.ways[0].encode(None, concepts, None, 0.5)
    assert sent.symbols.shape == (3, stubs.CONCEPTS * stubs.CONCEPT_DIM)
    np.testing.assert_array_equal(sent.code, sent.symbols.reshape(concepts.shape) * 0.5)
    assert np.abs(sent.code - concepts).max() <= 0.25


def test_samples_hang_on_the_seed_alone(gaussian):
    again, _ = measured(stubs.autoencoder(), steps=(1.0,))
    other, _ = measured(stubs.autoencoder(), steps=(1.0,), seed=1)
    assert again["samples/psnr"] == gaussian[0]["samples/psnr"] != other["samples/psnr"]
    assert jax.tree.all(jax.tree.map(np.isfinite, again))
