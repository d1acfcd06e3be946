import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vqlab.evaluation import evaluators, image_metrics
from vqlab.evaluation.evaluators import ReconstructionEvaluator, describe
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.quantizers import GroupedQuantizer

STRIDE, SIDE, GROUPS, SIZE = 4, 16, 2, 8


class PatchEncoder(nn.Module):
    latent_channels: int = 4
    stride: int = STRIDE

    @nn.compact
    def __call__(self, images, *, train):
        patches = rearrange(images, "b (h i) (w j) c -> b h w (i j c)", i=STRIDE, j=STRIDE)
        return nn.Dense(self.latent_channels)(patches)


class PatchDecoder(nn.Module):
    latent_channels: int = 4
    stride: int = STRIDE

    @nn.compact
    def __call__(self, latents, *, train):
        patches = nn.Dense(STRIDE**2 * 3)(latents)
        return rearrange(patches, "b h w (i j c) -> b (h i) (w j) c", i=STRIDE, j=STRIDE, c=3)


@pytest.fixture(scope="module")
def tokenizer():
    quantizer = GroupedQuantizer(num_groups=GROUPS, codebook_size=SIZE, latent_channels=4)
    return Tokenizer(encoder=PatchEncoder(), quantizer=quantizer, decoder=PatchDecoder())


@pytest.fixture(scope="module")
def variables(tokenizer):
    init = jax.jit(lambda key: tokenizer.init(key, jnp.zeros((1, SIDE, SIDE, 3))))
    variables = dict(init(jax.random.key(0)))
    return variables.pop("params"), variables


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (5, SIDE, SIDE, 3)).astype(np.float32)


def _batches(images):
    """Batches of two; the last one is padded."""
    padded = np.concatenate([images, np.full_like(images[:1], np.nan)])
    mask = np.arange(6) < 5
    return [{"images": padded[i : i + 2], "mask": mask[i : i + 2]} for i in (0, 2, 4)]


@pytest.fixture(scope="module")
def evaluated(tokenizer, variables, images):
    evaluator = ReconstructionEvaluator(tokenizer, lambda: _batches(images), num_images_kept=3)
    return evaluator, evaluator.run(*variables, {})


def _reconstruct(tokenizer, variables, images, num_groups):
    params, collections = variables
    apply, images = {"params": params, **collections}, jnp.asarray(images)
    indices = tokenizer.apply(apply, images, method="encode").indices
    pictures = tokenizer.apply(apply, indices, num_groups=num_groups, method="decode_indices")
    return np.asarray(pictures), np.asarray(indices)


def test_every_number_of_groups_equals_decode_indices(tokenizer, variables, images, evaluated):
    evaluator, results = evaluated
    for k in (1, 2):
        expected, _ = _reconstruct(tokenizer, variables, images, k)
        np.testing.assert_allclose(evaluator.reconstructions[k - 1], expected[:3], atol=1e-5)
        mse = image_metrics.mse_per_image(jnp.asarray(images), jnp.asarray(expected))
        np.testing.assert_allclose(
            results[f"groups_{k}/psnr"], -10 * np.log10(np.mean(mse)), rtol=1e-5
        )
    assert results["psnr"] == results["groups_2/psnr"] != results["groups_1/psnr"]
    np.testing.assert_array_equal(evaluator.originals, images[:3])


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
    assert "of the mean MSE" in describe("psnr") and "codewords" in describe("usage_g11")
    assert describe("groups_1/psnr") == "as psnr, groups kept: first 1, the others zero"
    assert describe("mean_colour/ssim").startswith("as ssim, of each image painted")
    assert all("\n" not in text and "{" not in text for text in evaluator.protocol.values())


def test_sharded_batches_give_the_same_numbers(tokenizer, variables, images, evaluated):
    devices = jax.devices()[:2]  # two where the suite forces eight
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batches = [jax.device_put(batch, sharding) for batch in _batches(images)]
    results = ReconstructionEvaluator(tokenizer, lambda: batches).run(*variables, {})
    timed = "images_per_second"
    for name in results.keys() - {timed}:
        assert results[name] == pytest.approx(evaluated[1][name], rel=1e-5)


def test_lpips_is_measured_when_its_weights_are_given(tokenizer, variables, images, monkeypatch):
    def distance(params, a, b):
        assert a.shape == b.shape
        return params["scale"] * jnp.abs(a - b).mean((1, 2, 3))

    monkeypatch.setattr(evaluators, "lpips_distance", distance)
    evaluator = ReconstructionEvaluator(tokenizer, lambda: _batches(images)[:1], lpips=True)
    results = evaluator.run(*variables, {"lpips": {"scale": jnp.float32(2.0)}})
    clipped = np.clip(evaluator.reconstructions, -1, 1)
    expected = 2 * np.abs(images[:2] - clipped).mean((1, 2, 3, 4))
    assert results["groups_1/lpips"] == pytest.approx(expected[0], rel=1e-5)
    assert results["lpips"] == pytest.approx(expected[1], rel=1e-5)
    with pytest.raises(ValueError, match="LPIPS.*weights were not given"):
        evaluator.run(*variables, {})


def test_no_images_is_an_error(tokenizer, variables):
    with pytest.raises(ValueError, match="no images"):
        ReconstructionEvaluator(tokenizer, lambda: []).run(*variables, {})
