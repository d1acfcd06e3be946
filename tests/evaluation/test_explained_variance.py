import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import stubs
from vqlab.evaluation.explained_variance import ExplainedVariance, explained_shares
from vqlab.evaluation.panels import Measured
from vqlab.models.codec import Units
from vqlab.ops.pixels import mse_per_image


@dataclasses.dataclass(frozen=True)
class KnownCodec:
    """Losses 8, 4, 2, 1 times the image's first pixel, times noise of mean 1 if wanted."""

    noise: float = 0.0

    units = Units("concepts", 3, (1, 2, 3), "nulls")
    setting = ""

    def encode(self, weights, images):
        return images[:, 0, 0, 0]

    def losses(self, weights, images, code, nums_kept, key):
        scale = 1 + self.noise * jax.random.uniform(key, code.shape, minval=-1)
        return 8 / 2 ** nums_kept[:, None] * code * scale


IMAGES = np.abs(stubs.images(5))


def _run(codec, **arguments):
    evaluator = ExplainedVariance(codec, stubs.batches(IMAGES), **arguments)
    return evaluator, evaluator.measure({}, {})


def test_shares_and_losses_by_hand():
    _, results = _run(KnownCodec())
    mean = IMAGES[:, 0, 0, 0].mean()
    for n, share in enumerate((0, 4 / 7, 6 / 7, 1)):
        assert results[f"first_{n}/share"] == pytest.approx(share, rel=1e-5)
        assert results[f"first_{n}/loss"] == pytest.approx(8 / 2**n * mean, rel=1e-5)
    assert results["loss"] == results["first_3/loss"]


def test_noise_is_the_same_for_every_n_and_drawn_anew_for_each_repeat():
    """With common noise shares are exact whatever the noise, though the losses are not."""
    losses = []
    for repeats in (1, 64):
        _, results = _run(KnownCodec(noise=0.5), repeats=repeats)
        assert results["first_1/share"] == pytest.approx(4 / 7, rel=1e-5)
        losses.append(results["loss"])
    exact = _run(KnownCodec())[1]["loss"]
    assert abs(losses[1] - exact) < 0.04 < abs(losses[0] - exact) + 0.04
    assert losses[0] != losses[1] != exact
    assert _run(KnownCodec(noise=0.5), seed=1)[1]["loss"] != losses[0]


def test_nothing_explained_has_no_shares():
    assert np.isnan(explained_shares(np.array([1.0, 0.5, 1.0]))).all()
    np.testing.assert_allclose(explained_shares(np.array([4.0, 5.0, 2.0])), [0, -0.5, 1])


def test_of_mgvq_it_is_the_pixels_error():
    codec = stubs.codec_of(stubs.grouped_tokenizer())
    weights = stubs.weights_of(codec.module)
    evaluator = ExplainedVariance(codec, stubs.batches(IMAGES))
    results = evaluator.measure(weights, {})
    whole = jax.jit(codec.module.apply)(weights.variables, jnp.asarray(IMAGES))
    mse = mse_per_image(jnp.asarray(IMAGES), whole.images).mean()
    assert results["first_2/loss"] == pytest.approx(float(mse), rel=1e-4)


def test_of_semanticist_it_is_the_diffusion_loss():
    codec = stubs.codec_of(stubs.semanticist())
    evaluator = ExplainedVariance(codec, stubs.batches(IMAGES), repeats=2)
    results = evaluator.measure(stubs.weights_of(codec.module), {})
    assert {f"first_{n}/share" for n in (0, 1, 2, 4)} < results.keys()
    assert len({results[f"first_{n}/loss"] for n in (0, 1, 2, 4)}) == 4
    assert evaluator.protocol.keys() == results.keys()
    assert "any: 2, the same for every n" in evaluator.protocol["loss"]


def test_section_shows_both_curves_and_those_of_others():
    evaluator, results = _run(KnownCodec())
    results = {f"e/{name}": value for name, value in results.items()}
    pca = {f"pca/components_{k}/explained_variance": k / 4 for k in (1, 2)}
    (section,) = evaluator.sections("e", Measured(results | pca, {"off": results}))
    assert section.heading == "Explained variance" and section.body.count("<img") == 2


def test_errors():
    with pytest.raises(ValueError, match="keeps its code whole"):
        ExplainedVariance(stubs.codec_of(stubs.autoencoder()), stubs.batches(IMAGES))
    with pytest.raises(ValueError, match="repeats=0 must be at least 1"):
        ExplainedVariance(KnownCodec(), stubs.batches(IMAGES), repeats=0)
    with pytest.raises(ValueError, match="no images"):
        ExplainedVariance(KnownCodec(), lambda split: []).measure({}, {})
