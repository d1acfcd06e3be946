import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.filled import filled
from vqlab.nn.quantizers import GroupedQuantizer
from vqlab.ops import codebook as ops
from vqlab.ops import masks

GOLDEN = Path(__file__).parents[1] / "golden" / "mgvq_quantizer_train.npz"
G, K, C = 4, 64, 32


@pytest.fixture(scope="module")
def official():
    with np.load(GOLDEN) as arrays:
        return {name: arrays[name] for name in arrays.files}


def official_variables(official):
    return {
        "params": {"codebook": jnp.asarray(official["w/embedding.weight"].reshape(G, K, C // G))},
        "codebook_stats": {
            "usage_ema": jnp.asarray(official["w/embed_prob"]),
            "recent_indices": jnp.asarray(official["w/codebook_used"], jnp.int32),
        },
    }


def to_nhwc(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


def make(batch=2, side=4, channels=C, **options):
    quantizer = GroupedQuantizer(G, K, channels, **options)
    latents = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    return quantizer, init(quantizer, latents), latents


@functools.partial(jax.jit, static_argnums=0)
def init(quantizer, latents):
    return quantizer.init(jax.random.key(1), latents, train=False)


@functools.partial(jax.jit, static_argnames=("quantizer", "num_groups"))
def train(quantizer, variables, latents, **options):
    mask_key, reseed_key = jax.random.split(jax.random.key(0))
    return quantizer.apply(
        variables,
        latents,
        train=True,
        rngs={"mask": mask_key, "reseed": reseed_key},
        mutable=["codebook_stats"],
        **options,
    )


@pytest.fixture(scope="module")
def steps(official):
    """Three training steps from the official start, reseeded with the official draws."""
    quantizer, variables, results = GroupedQuantizer(G, K, C), official_variables(official), []

    def loss_fn(codebook, z, stats, cotangent):
        variables = {"params": {"codebook": codebook}, "codebook_stats": stats}
        quantized, updated = train(quantizer, variables, z)
        loss = jnp.sum(quantized.latents * cotangent) + sum(map(jnp.sum, quantized.losses.values()))
        return loss, (quantized, updated["codebook_stats"])

    @jax.jit
    def step(codebook, z, stats, cotangent, drawn):
        (loss, (quantized, stats)), gradients = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)(
            codebook, z, stats, cotangent
        )
        tokens = ops.l2_normalize(z.reshape(-1, G, C // G))
        new = ops.reseed(
            codebook, tokens[drawn, jnp.arange(G)[:, None]], quantized.update["reseed_keep"]
        )
        return loss, quantized, stats, gradients, new, ops.draw_probabilities(tokens, codebook)

    for k in range(3):
        z, cotangent = to_nhwc(official["in/z"][k]), to_nhwc(official["in/R"][k])
        drawn = jnp.asarray(official[f"out/s{k}/draws"])
        results.append(
            step(variables["params"]["codebook"], z, variables["codebook_stats"], cotangent, drawn)
        )
        variables = {"params": {"codebook": results[k][4]}, "codebook_stats": results[k][2]}
    return results


@pytest.mark.parametrize("k", range(3))
def test_training_step_equals_the_official_code(official, steps, k):
    loss, quantized, stats, (codebook_gradient, latents_gradient), new, probabilities = steps[k]

    def meets(value, name, rtol=1e-4):
        expected = official[f"out/s{k}/{name}"]
        value = np.asarray(value).reshape(expected.shape)
        assert np.abs(value - expected).max() <= rtol * np.abs(expected).max(), name

    np.testing.assert_array_equal(quantized.indices.reshape(-1, G), official[f"out/s{k}/indices"])
    meets(np.moveaxis(quantized.latents, -1, 1), "z_q")
    meets(quantized.losses["vq"], "vq_loss")
    meets(quantized.losses["commit"], "commit_loss")
    meets(loss, "loss")
    meets(np.moveaxis(latents_gradient, -1, 1), "grad_z", 1e-3)
    meets(codebook_gradient, "grad_embedding_clean", 1e-3)
    meets(stats["usage_ema"], "embed_prob_after")
    meets(quantized.update["reseed_keep"], "freq_prob")
    meets(quantized.stats["usage"], "codebook_usage")
    meets(quantized.stats["perplexity"][-1], "perplexity_last_group")
    meets(new, "embedding_after")
    weights = official[f"out/s{k}/draw_prob"]  # rescaled as a whole, so only the ratios count
    np.testing.assert_allclose(probabilities, weights / weights.sum(-1, keepdims=True), rtol=1e-4)


def test_recent_indices_equal_the_official_buffer(official, steps):
    stats = steps[-1][2]
    np.testing.assert_array_equal(stats["recent_indices"], official["out/codebook_used_after"])


def test_masked_steps_equal_the_official_code(official, monkeypatch):
    quantizer = GroupedQuantizer(G, K, C, mask_probs=(0.0, 0.2, 0.3, 0.4))
    variables, z = official_variables(official), to_nhwc(official["in/z"][0])

    @jax.jit
    def step(r):
        def keep_for_r(key, mask_probs, batch, per_sample):
            return masks.nested_keep(jnp.full(batch, r), mask_probs)

        monkeypatch.setattr(masks, "draw_keep", keep_for_r)
        rngs = {"mask": jax.random.key(0), "reseed": jax.random.key(1)}
        return quantizer.apply(variables, z, train=True, rngs=rngs, mutable=["codebook_stats"])

    for r in (0.1, 0.25, 0.35, 0.9):
        quantized, updated = step(r)
        expected = {k: official[f"out/mask{r}/{k}"] for k in ("z_q", "vq_loss", "commit_loss")}
        shown = np.moveaxis(np.asarray(quantized.latents), -1, 1)
        np.testing.assert_allclose(shown, expected["z_q"], atol=1e-6)
        np.testing.assert_allclose(quantized.losses["vq"], expected["vq_loss"], rtol=1e-4)
        np.testing.assert_allclose(quantized.losses["commit"], expected["commit_loss"], rtol=1e-4)
        is_kept = official[f"out/mask{r}/embed_prob_changed"]
        for name, before in variables["codebook_stats"].items():
            changed = (np.asarray(before) != updated["codebook_stats"][name]).any(1)
            np.testing.assert_array_equal(changed, is_kept, name)
        keep = np.asarray(quantized.update["reseed_keep"])
        assert (keep[~is_kept] == 1).all() and (keep[is_kept] < 1).any()


def test_evaluation_equals_the_official_code(official):
    quantizer = GroupedQuantizer(G, K, C)
    variables = official_variables(official)
    quantized = quantizer.apply(variables, to_nhwc(official["in/z"][0]), train=False)
    expected = official["out/eval/z_q"]
    np.testing.assert_allclose(np.moveaxis(quantized.latents, -1, 1), expected, atol=1e-6)
    np.testing.assert_array_equal(quantized.indices.reshape(-1, G), official["out/eval/indices"])
    assert not any(map(jnp.any, quantized.losses.values())) and quantized.stats == {}
    for used in (0, 2, 4):
        found = quantizer.apply(variables, quantized.indices, num_groups=used, method="lookup")
        first = jnp.arange(C) < used * C // G
        np.testing.assert_allclose(found, jnp.where(first, quantized.latents, 0), atol=1e-6)


def test_initial_codewords_are_unit_vectors_and_the_meter_is_empty():
    _, variables, _ = make()
    norms = jnp.linalg.norm(variables["params"]["codebook"], axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    stats = variables["codebook_stats"]
    assert (stats["recent_indices"] == -1).all() and not stats["usage_ema"].any()
    assert stats["recent_indices"].shape == (G, 65_536)


def test_masks_drawn_per_sample_leave_losses_and_counts_to_the_kept():
    quantizer, variables, latents = make(
        batch=16, mask_probs=(0.0, 0.5, 0.5, 1.0), mask_per_sample=True, reseed=False
    )
    quantized, updated = train(quantizer, variables, latents)
    shown = quantized.latents.reshape(16, 16, G, C // G)
    kept = np.asarray((shown != 0).any((1, 3)))
    assert kept[:, 0].all() and not kept[:, 3].any() and 0 < kept[:, 1].sum() < 16
    np.testing.assert_array_equal(kept[:, 1], kept[:, 2])
    tokens = ops.l2_normalize(latents.reshape(16, 16, G, C // G))
    expected = np.mean((shown - tokens)[kept[:, 1], :, 1] ** 2)
    np.testing.assert_allclose(quantized.losses["vq"][1], expected, rtol=1e-4)
    assert quantized.losses["vq"][3] == 0 and quantized.losses["commit"][3] == 0
    seen = (updated["codebook_stats"]["recent_indices"] >= 0).sum(1)
    np.testing.assert_array_equal(seen, 16 * kept.sum(0))
    total = updated["codebook_stats"]["usage_ema"].sum(1)
    np.testing.assert_allclose(total, [0.01, 0.01, 0.01, 0], rtol=1e-4)
    assert "reseed_codewords" not in quantized.update


def test_groups_beyond_num_groups_count_as_masked():
    quantizer, variables, latents = make()
    quantized, updated = train(quantizer, variables, latents, num_groups=2)
    shown = quantized.latents.reshape(-1, G, C // G)
    assert shown[:, :2].any(-1).all() and not shown[:, 2:].any()
    assert (quantized.losses["vq"] > 0).tolist() == [True, True, False, False]
    assert (quantized.update["reseed_keep"][2:] == 1).all()
    assert not updated["codebook_stats"]["usage_ema"][2:].any()


def test_reseeded_codewords_are_tokens_of_the_batch():
    quantizer, variables, latents = make()
    quantized, _ = train(quantizer, variables, latents)
    tokens = ops.l2_normalize(latents.reshape(-1, G, C // G))
    for g in range(G):
        score = np.asarray(quantized.update["reseed_codewords"][g] @ tokens[:, g].T)
        np.testing.assert_allclose(score.max(-1), 1, rtol=1e-5)


def test_bfloat16_latents_are_quantized_in_float32():
    quantizer, variables, latents = make()
    latents = latents.astype(jnp.bfloat16)
    low, _ = train(quantizer, variables, latents)
    full, _ = train(quantizer, variables, latents.astype(jnp.float32))
    assert low.latents.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low.indices, full.indices)
    assert low.losses["vq"].dtype == jnp.float32
    np.testing.assert_array_equal(low.losses["vq"], full.losses["vq"])


def test_more_tokens_than_the_buffer_holds():
    quantizer = GroupedQuantizer(2, 3, 4, reseed=False)
    latents = jax.random.normal(jax.random.key(0), (1, 257, 257, 4))
    variables = init(quantizer, latents)
    quantized, updated = train(quantizer, variables, latents)
    newest = quantized.indices.reshape(-1, 2)[-65_536:].T
    np.testing.assert_array_equal(updated["codebook_stats"]["recent_indices"], newest)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"latent_channels": 30}, "30 latent channels do not split into 4 groups"),
        ({"codebook_size": 0}, "codebook_size=0 must be at least 1"),
        ({"mask_probs": (0.0, 0.5)}, r"mask_probs \(0.0, 0.5\) has 2 entries for 4 groups"),
        ({"mask_probs": (0.0, 0.5, 0.4, 0.6)}, "must not decrease"),
    ],
)
def test_wrong_options_are_refused(options, message):
    quantizer = GroupedQuantizer(
        **{"num_groups": 4, "codebook_size": 8, "latent_channels": 32} | options
    )
    with pytest.raises(ValueError, match=message):
        quantizer.init(jax.random.key(0), jnp.zeros((1, 2, 2, 32)), train=False)


def test_wrong_inputs_are_refused():
    quantizer, variables, latents = make()
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 16\) do not fit .*\[B, ..., 32\]"):
        quantizer.apply(variables, latents[..., :16], train=False)
    with pytest.raises(ValueError, match="num_groups=5 is out of range: choose 0..4"):
        quantizer.apply(variables, latents, train=False, num_groups=5)
    indices = jnp.zeros((2, 4, 4, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"indices \(2, 4, 4, 3\) must end in 4"):
        quantizer.apply(variables, indices, method="lookup")
    with pytest.raises(ValueError, match="num_groups=-1 is out of range"):
        quantizer.apply(variables, latents.astype(int)[..., :4], num_groups=-1, method="lookup")


def test_sharded_over_eight_devices_equals_one_device():
    quantizer = GroupedQuantizer(2, 300, 8, mask_probs=(0.0, 0.5), mask_per_sample=True)
    latents = jax.random.normal(jax.random.key(0), (16, 4, 4, 8))
    variables = filled(lambda key: quantizer.init(key, latents, train=False))

    def step(variables, latents):
        def loss_fn(params, latents):
            quantized, updated = quantizer.apply(
                {**variables, "params": params},
                latents,
                train=True,
                mutable=["codebook_stats"],
                rngs={"mask": jax.random.key(2), "reseed": jax.random.key(3)},
            )
            loss = jnp.sum(quantized.latents**3) + sum(map(jnp.sum, quantized.losses.values()))
            return loss, (quantized, updated)

        return jax.grad(loss_fn, (0, 1), has_aux=True)(variables["params"], latents)

    expected = jax.device_get(jax.jit(step)(variables, latents))
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        rows = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
        params = jax.device_put(variables["params"], rows)
        whole = NamedSharding(mesh, PartitionSpec())
        stats = jax.device_put(variables["codebook_stats"], whole)
        variables = {"params": params, "codebook_stats": stats}
        found = jax.jit(step)(variables, jax.device_put(latents, batch))
        tokens = jax.device_put(jnp.ones((64, 2, 4)), batch)
        search = jax.jit(ops.nearest_codeword).lower(tokens, jnp.ones((2, 300, 4))).compile()
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, a), b in zip(leaves, jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        if a.dtype == jnp.int32 or "reseed_codewords" in name:
            np.testing.assert_array_equal(a, b, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    text = search.as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "permute"))
