"""Every bottleneck inside a whole tokenizer: trains, encodes, decodes by prefix, counts its bits.

The networks around it are single linear maps of patches, so that all of this compiles in a second.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from configs import _bottlenecks as nodes
from tests import tiny
from tests.filled import filled
from vqlab import models
from vqlab.models.codec import Weights
from vqlab.models.tokenizer import Tokenizer
from vqlab.training.objectives.reconstruction import TokenizerObjective

STRIDE, SIDE = 4, 16
POSITIONS = (SIDE // STRIDE) ** 2

# name -> (node, G, K, losses); K is None for a continuous code.
BOTTLENECKS = {
    "grouped": (nodes.grouped(8, 16, 2, reseed=False), 2, 16, "vq commit"),
    "vq": (nodes.vector_quantizer(6, 32), 1, 32, "vq commit"),
    "vq_ema": (nodes.vector_quantizer(6, 32, learning="ema"), 1, 32, "commit"),
    "rvq": (nodes.residual_quantizer(6, 16, 3, mask_range=(0.3, 0.6)), 3, 16, "vq commit"),
    "rvq_ema": (nodes.residual_quantizer(6, 16, 2, learning="ema", shared=True), 2, 16, "commit"),
    "fsq": (nodes.fsq((4, 3, 5), channels=8, num_groups=2), 2, 60, ""),
    "lfq": (nodes.lfq(16, num_groups=2), 2, 16, "commit entropy"),
    "bsq": (nodes.bsq(64, channels=5), 1, 64, "commit entropy"),
    "simvq": (nodes.simvq(6, 32), 1, 32, "vq commit"),
    "ibq": (nodes.ibq(6, 32), 1, 32, "soft vq commit entropy"),
    "gaussian": (nodes.gaussian(6), 1, None, "kl"),
    "none": (nodes.none(6), 1, None, ""),
}
INDEXED = [name for name, row in BOTTLENECKS.items() if row[2]]


class Patches(nn.Module):
    """Images to one latent a patch."""

    latent_channels: int
    stride: ClassVar[int] = STRIDE

    @nn.compact
    def __call__(self, images, *, train):
        patches = rearrange(images, "b (h i) (w j) c -> b h w (i j c)", i=STRIDE, j=STRIDE)
        return nn.Dense(self.latent_channels)(patches)


class Pictures(nn.Module):
    """Undoes `Patches`."""

    stride: ClassVar[int] = STRIDE

    @nn.compact
    def __call__(self, latents, *, train):
        patches = nn.Dense(STRIDE * STRIDE * 3)(latents)
        return rearrange(patches, "b h w (i j c) -> b (h i) (w j) c", i=STRIDE, j=STRIDE)


def tokenizer_of(node):
    quantizer = models.build(node)
    return Tokenizer(Patches(quantizer.input_channels), quantizer, Pictures())


def use(tokenizer, images):
    """(loss, aux, gradients, variables after a step), and what these make of the images."""
    objective = TokenizerObjective(tokenizer, lpips_weight=0.0, adversarial_weight=0.0)
    codec = tokenizer.codec()

    def loss_of(params, variables, images):
        batch, key = {"images": images}, jax.random.key(1)
        losses, aux = objective(params, variables, {}, batch, rng=key, step=0)
        return losses["tokenizer"], aux

    def run(params, variables, images):
        (loss, aux), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, variables, images
        )
        params = objective.post_update(params, aux.update)
        variables = {"params": params["tokenizer"], **aux.variables["tokenizer"]}
        weights = Weights(variables, {})
        code = codec.encode(weights, images)
        levels = range(codec.units.total + 1)
        pictures = [codec.decode(weights, code, k, jax.random.key(0)) for k in levels]
        quantized = tokenizer.apply(variables, images, method="encode")
        whole = tokenizer.apply(variables, quantized.latents, method="decode")
        step = (loss, aux, gradients["tokenizer"], variables)
        return step, (code, codec.lookup(weights, code), jnp.stack(pictures), quantized, whole)

    params, variables = filled(lambda key: objective.init(key, {"images": images}))
    return jax.jit(run)(params, variables, images)


@pytest.fixture(scope="module")
def used():
    """name -> (tokenizer, *use(tokenizer, images)), computed when first asked for."""
    results = {}

    def of(name):
        if name not in results:
            tokenizer = tokenizer_of(BOTTLENECKS[name][0])
            results[name] = tokenizer, *use(tokenizer, tiny.images(4, SIDE))
        return results[name]

    return of


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_training_step_reaches_the_encoder_and_logs_losses_and_usage(name, used):
    _, (loss, aux, gradients, _), _ = used(name)
    _, groups, size, losses = BOTTLENECKS[name]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, aux, gradients)))
    assert np.abs(gradients["encoder"]["Dense_0"]["kernel"]).max() > 0
    vectors = {key for key, value in aux.metrics.items() if value.ndim}
    assert aux.metrics.keys() - vectors == {"l2", *losses.split()}
    terms = sum(aux.metrics[key] for key in losses.split())
    np.testing.assert_allclose(loss, aux.metrics["l2"] + terms, rtol=1e-6)
    assert vectors >= ({"usage", "perplexity", "dead"} if size else set())
    if size:
        perplexity = aux.metrics["perplexity"]
        assert perplexity.shape == (groups,)
        assert (1 <= perplexity).all() and (perplexity <= size * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_indices_look_up_what_the_forward_pass_decodes(name, used):
    tokenizer, _, (code, looked_up, pictures, quantized, whole) = used(name)
    _, groups, size, _ = BOTTLENECKS[name]
    np.testing.assert_allclose(looked_up, quantized.latents, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pictures[-1], whole, rtol=0, atol=1e-5)
    codec = tokenizer.codec()
    codec.check_code(np.asarray(code))
    bits = codec.bits(SIDE, SIDE)
    if size:
        np.testing.assert_array_equal(code, quantized.indices)
        assert code.shape == (4, 4, 4, groups) and code.dtype == np.int32
        assert (codec.units.total, codec.codebook_size) == (groups, size)
        assert bits == pytest.approx(POSITIONS * groups * np.log2(size))
        assert f"{groups} x {size}" in str(codec.card().facts)
    else:
        assert bits is None and codec.units.levels == ()


@pytest.mark.parametrize("name", [name for name in INDEXED if BOTTLENECKS[name][1] > 1])
def test_a_prefix_is_untouched_by_later_groups(name, used):
    tokenizer, (_, _, _, variables), (code, _, pictures, _, _) = used(name)
    groups, size = BOTTLENECKS[name][1:3]
    weights, codec = Weights(variables, {}), tokenizer.codec()
    other = code.at[..., 1:].set((code[..., 1:] + 1) % size)
    decode = jax.jit(codec.decode)  # the number of groups is an array there
    first = decode(weights, other, jnp.int32(1), jax.random.key(0))
    np.testing.assert_allclose(first, pictures[1], rtol=0, atol=1e-5)
    assert np.abs(pictures[1] - pictures[2]).max() > 1e-4
    assert codec.features(weights, code).shape[:2] == (4, groups)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_bfloat16_latents_of_any_number_of_axes_are_computed_in_float32(name):
    module = models.build(BOTTLENECKS[name][0])
    latents = jax.random.normal(jax.random.key(0), (2, 3, module.input_channels), jnp.bfloat16)

    apply = jax.jit(functools.partial(module.apply, train=False))
    variables = filled(functools.partial(module.init, train=False), latents)
    narrow = apply(variables, latents)
    wide = apply(variables, latents.astype(jnp.float32)[:, None, :, None])  # [B, 1, S, 1, C]
    assert {values.dtype for values in narrow.losses.values()} <= {jnp.dtype("float32")}
    assert wide.latents.shape == (2, 1, 3, 1, module.latent_channels)
    if BOTTLENECKS[name][2]:
        assert narrow.latents.dtype == jnp.bfloat16
        np.testing.assert_array_equal(narrow.indices, wide.indices[:, 0, :, 0])


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_wrong_numbers_of_groups_are_one_line(name):
    module = models.build(BOTTLENECKS[name][0])
    latents = jnp.zeros((1, 2, module.input_channels))
    for number in (-1, module.num_groups + 1):
        with pytest.raises(ValueError, match=f"num_groups={number}") as error:
            jax.eval_shape(
                lambda n=number: module.init_with_output(
                    jax.random.key(0), latents, train=False, num_groups=n
                )
            )
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"\(1, 2, 99\)"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 2, 99)), train=False))
