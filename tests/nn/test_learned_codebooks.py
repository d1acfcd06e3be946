"""VQ's and RVQ's own claims; tests/test_parity.py meets the arrays of vector-quantize-pytorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.filled import filled
from vqlab.nn.quantizers import GroupedQuantizer
from vqlab.nn.residual_quantizer import ResidualQuantizer
from vqlab.nn.vector_quantizer import VectorQuantizer

RNGS = {"reseed": jax.random.key(2), "mask": jax.random.key(3)}


def latents(count=64, channels=4):
    return jax.random.normal(jax.random.key(0), (2, count // 2, channels))


@functools.partial(jax.jit, static_argnums=0)
def step(module, variables, x):
    """((losses' sum, (quantized, collections)), gradients) of a training pass."""

    def loss_of(params, x):
        quantized, state = module.apply(
            {**variables, "params": params}, x, train=True, rngs=RNGS, mutable=["codebook_stats"]
        )
        return sum(jnp.sum(loss) for loss in quantized.losses.values()), (quantized, state)

    return jax.value_and_grad(loss_of, (0, 1), has_aux=True)(variables["params"], x)


def variables_of(module, x):
    """As initialised but for the codebook, which is normal."""
    return filled(functools.partial(module.init, train=False), x)


def test_cosine_and_gradient_are_a_grouped_quantizer_of_one_group():
    x = latents()
    module = VectorQuantizer(16, 4, distance="cosine", reseed=False)
    variables = variables_of(module, x)
    (loss, (ours, _)), gradients = step(module, variables, x)
    (expected, (theirs, _)), other = step(GroupedQuantizer(1, 16, 4, reseed=False), variables, x)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.latents, theirs.latents, rtol=0, atol=1e-6)
    for name in ("vq", "commit"):
        np.testing.assert_allclose(ours.losses[name], theirs.losses[name], rtol=1e-6)
    for mine, its in zip(jax.tree.leaves(gradients), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_euclidean_indices_are_the_nearest_codewords():
    x = latents()
    module = VectorQuantizer(300, 4)  # more than a block of codewords
    codebook = (
        jax.random.normal(jax.random.key(5), (1, 300, 4)) * jnp.linspace(0.1, 3, 300)[:, None]
    )
    found = module.apply(
        {**variables_of(module, x), "params": {"codebook": codebook}}, x, train=False
    )
    distances = np.linalg.norm(x[..., None, :] - codebook[0], axis=-1)
    np.testing.assert_array_equal(found.indices[..., 0], np.argmin(distances, -1))
    np.testing.assert_array_equal(found.latents, codebook[0][found.indices[..., 0]])


def test_running_means_reach_the_means_of_their_tokens():
    """Two clusters, two codewords: without a gradient step each ends on a cluster's mean."""
    x = jnp.concatenate([latents(32) * 0.1 + 3.0, latents(32) * 0.1 - 3.0], 1)
    module = VectorQuantizer(2, 4, learning="ema", ema_decay=0.5, reseed=False)
    variables = variables_of(module, x)
    variables["params"]["codebook"] = jnp.array([[[1.0] * 4, [-1.0] * 4]])
    for _ in range(25):
        (_, (quantized, state)), (gradient, _) = step(module, variables, x)
        assert not gradient["codebook"].any() and quantized.losses.keys() == {"commit"}
        params = module.post_update(variables["params"], quantized.update)
        variables = {**variables, **state, "params": params}
    halves = [np.mean(x[:, :16], (0, 1)), np.mean(x[:, 16:], (0, 1))]
    np.testing.assert_allclose(params["codebook"][0], halves, rtol=1e-4)


@pytest.mark.parametrize(("distance", "learning"), [("euclidean", "gradient"), ("cosine", "ema")])
def test_codewords_out_of_use_move_onto_tokens_and_stay_there(distance, learning):
    x = latents() + 4.0
    module = VectorQuantizer(8, 4, distance=distance, learning=learning)
    variables = variables_of(module, x)
    far = jnp.full((1, 8, 4), -40.0).at[0, 0].set(4.0)  # one codeword takes every token
    variables["params"]["codebook"] = module.as_compared(far)
    (_, (quantized, state)), _ = step(module, variables, x)
    assert (quantized.indices == 0).all()
    moved = module.post_update(variables["params"], quantized.update)["codebook"][0]
    tokens = module.as_compared(x.reshape(-1, 4))
    gaps = np.min(np.linalg.norm(moved[1:, None] - tokens, axis=-1), -1)
    assert (gaps < 0.1).all()  # a thousandth of the old codeword is left
    if learning == "ema":
        stats = state["codebook_stats"]
        own = stats["ema_sums"][0] / np.maximum(stats["ema_counts"][0], 1e-9)[:, None]
        directions = module.as_compared(own)[1:], module.as_compared(moved)[1:]
        np.testing.assert_allclose(*directions, rtol=1e-3, atol=1e-3)
    again = module.apply({**variables, "params": {"codebook": moved[None]}}, x, train=False)
    assert len(np.unique(again.indices)) > 1


def test_layers_add_up_and_each_refines_what_is_left():
    x = latents(256)
    module = ResidualQuantizer(16, 4, num_groups=3, reseed=False)
    codebook = (
        jax.random.normal(jax.random.key(4), (3, 16, 4)) * jnp.array([1, 0.5, 0.25])[:, None, None]
    )
    variables = {**variables_of(module, x), "params": {"codebook": codebook}}
    lookup = jax.jit(lambda i, k: module.apply(variables, i, num_groups=k, method="lookup"))
    whole = jax.jit(functools.partial(module.apply, train=False))(variables, x)
    rest, errors = x, []
    for layer in range(3):
        index = whole.indices[..., layer]
        distances = np.linalg.norm(rest[..., None, :] - codebook[layer], axis=-1)
        np.testing.assert_array_equal(index, np.argmin(distances, -1))
        rest = rest - codebook[layer][index]
        prefix = lookup(whole.indices, jnp.int32(layer + 1))
        np.testing.assert_allclose(prefix, x - rest, atol=1e-5)
        errors.append(np.mean((x - prefix) ** 2))
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_array_equal(prefix, whole.latents)
    assert not lookup(whole.indices, jnp.int32(0)).any()


def test_dropped_layers_add_nothing_learn_nothing_and_count_nowhere():
    x = latents()
    module = ResidualQuantizer(
        8, 4, num_groups=3, mask_probs=(0.0, 1.0, 1.0), learning="ema", reseed=False
    )
    variables = variables_of(module, x)
    (_, (quantized, state)), _ = step(module, variables, x)
    stats, before = state["codebook_stats"], variables["codebook_stats"]
    assert quantized.losses["commit"][0] > 0 and not quantized.losses["commit"][1:].any()
    assert (stats["recent_indices"][1:] == -1).all()
    np.testing.assert_array_equal(stats["ema_sums"][1:], before["ema_sums"][1:])
    codebook = module.post_update(variables["params"], quantized.update)["codebook"]
    np.testing.assert_array_equal(codebook[1:], variables["params"]["codebook"][1:])
    assert np.abs(codebook[0] - variables["params"]["codebook"][0]).max() > 0
    first = variables["params"]["codebook"][0][quantized.indices[..., 0]]
    np.testing.assert_array_equal(quantized.latents, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 0}, "codebook_size=0 must be at least 1"),
        ({"distance": "dot"}, "unknown distance 'dot'; choose from"),
        ({"learning": "kmeans"}, "unknown learning 'kmeans'; choose from"),
        ({"num_groups": 0}, "num_groups=0 must be at least 1"),
        ({"mask_probs": (0.0, 0.5)}, "has 2 entries for 3 groups"),
        ({"mask_range": (0.1, 0.2), "mask_probs": (0.0,) * 3}, "not both"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(**{"codebook_size": 8, "latent_channels": 4, "num_groups": 3} | options)
