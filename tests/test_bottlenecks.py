"""Every bottleneck inside a whole tokenizer: trains, encodes, decodes by prefix, counts its bits.

The networks around it are single linear maps of patches, so that all of this compiles in a second.
"""

import functools
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import AxisType, PartitionSpec

from configs import _bottlenecks as nodes
from tests import tiny
from tests.filled import filled
from vqlab import models
from vqlab.models.codec import Weights
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.quantized import Quantized
from vqlab.training.objectives.reconstruction import TokenizerObjective
from vqlab.training.step import Aux

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


class Used(NamedTuple):
    """What one training step gave, and then the tokenizer in use.

    other: pictures of the first group alone where later groups have other indices. narrow, wide:
    what the bottleneck makes of bfloat16 latents, and of the same in float32.
    """

    loss: jax.Array
    aux: Aux
    gradients: dict
    code: jax.Array
    looked_up: jax.Array
    features: jax.Array
    pictures: jax.Array
    other: jax.Array
    quantized: Quantized
    whole: jax.Array
    narrow: Quantized
    wide: Quantized


def use(tokenizer, images):
    """All of it as one program."""
    objective = TokenizerObjective(tokenizer, lpips_weight=0.0, adversarial_weight=0.0)
    codec, key = tokenizer.codec(), jax.random.key(0)

    def loss_of(params, variables, images):
        batch = {"images": images}
        losses, aux = objective(params, variables, {}, batch, rng=key, step=0)
        return losses["tokenizer"], aux

    @jax.jit
    def run(params, variables, images):
        (loss, aux), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, variables, images
        )
        params = objective.post_update(params, aux.update)
        variables = {"params": params["tokenizer"], **aux.variables["tokenizer"]}
        weights = Weights(variables, {})
        code = codec.encode(weights, images)
        levels = jnp.arange(codec.units.total + 1)
        pictures = jax.lax.map(lambda k: codec.decode(weights, code, k, key), levels)
        other = code.at[..., 1:].set((code[..., 1:] + 1) % (codec.codebook_size or 2))
        quantized = tokenizer.apply(variables, images, method="encode")
        latents = tokenizer.apply(variables, images, method="encode_unquantized")
        latents = latents.astype(jnp.bfloat16)
        narrow, wide = (
            tokenizer.apply(variables, x, method=lambda m, x: m.quantizer(x, train=False))
            for x in (latents, latents.astype(jnp.float32))
        )
        return Used(
            loss,
            aux,
            gradients["tokenizer"],
            code,
            codec.lookup(weights, code),
            codec.features(weights, code),
            pictures,
            codec.decode(weights, other, 1, key),
            quantized,
            tokenizer.apply(variables, quantized.latents, method="decode"),
            narrow,
            wide,
        )

    params, variables = filled(lambda key: objective.init(key, {"images": images}))
    return jax.device_get(run(params, variables, images))


@pytest.fixture(scope="module")
def used():
    """name -> (tokenizer, Used), computed when first asked for."""
    results = {}

    def of(name):
        if name not in results:
            tokenizer = tokenizer_of(BOTTLENECKS[name][0])
            results[name] = tokenizer, use(tokenizer, tiny.images(4, SIDE))
        return results[name]

    return of


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_training_step_reaches_the_encoder_and_logs_losses_and_usage(name, used):
    _, made = used(name)
    _, groups, size, losses = BOTTLENECKS[name]
    metrics = made.aux.metrics
    for numbers in jax.tree.leaves((made.loss, made.aux, made.gradients)):
        assert np.isfinite(numbers).all()
    assert np.abs(made.gradients["encoder"]["Dense_0"]["kernel"]).max() > 0
    vectors = {key for key, value in metrics.items() if value.ndim}
    assert metrics.keys() - vectors == {"l2", *losses.split()}
    terms = sum(metrics[key] for key in losses.split())
    np.testing.assert_allclose(made.loss, metrics["l2"] + terms, rtol=1e-6)
    if size:
        assert vectors >= {"usage", "perplexity", "dead"}
        perplexity = metrics["perplexity"]
        assert perplexity.shape == (groups,)
        assert (1 <= perplexity).all() and (perplexity <= size * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_indices_look_up_what_the_forward_pass_decodes(name, used):
    tokenizer, made = used(name)
    _, groups, size, _ = BOTTLENECKS[name]
    np.testing.assert_allclose(made.looked_up, made.quantized.latents, rtol=0, atol=1e-6)
    np.testing.assert_allclose(made.pictures[-1], made.whole, rtol=0, atol=1e-5)
    codec, code = tokenizer.codec(), made.code
    codec.check_code(code)
    bits = codec.bits(SIDE, SIDE)
    if size:
        np.testing.assert_array_equal(code, made.quantized.indices)
        assert code.shape == (4, 4, 4, groups) and code.dtype == np.int32
        assert (codec.units.total, codec.codebook_size) == (groups, size)
        assert bits == pytest.approx(POSITIONS * groups * np.log2(size))
        assert f"{groups} x {size}" in str(codec.card().facts)
    else:
        assert bits is None and codec.units.levels == ()


@pytest.mark.parametrize("name", [name for name in INDEXED if BOTTLENECKS[name][1] > 1])
def test_a_prefix_is_untouched_by_later_groups(name, used):
    _, made = used(name)
    np.testing.assert_allclose(made.other, made.pictures[1], rtol=0, atol=1e-5)
    assert np.abs(made.pictures[1] - made.pictures[2]).max() > 1e-4
    assert made.features.shape[:2] == (4, BOTTLENECKS[name][1])


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_bfloat16_latents_are_computed_in_float32(name, used):
    _, made = used(name)
    losses = [*made.narrow.losses.values(), *made.wide.losses.values()]
    assert {values.dtype for values in losses} <= {np.dtype("float32")}
    if BOTTLENECKS[name][2]:
        assert made.narrow.latents.dtype == jnp.bfloat16
        assert made.wide.latents.dtype == np.float32
        np.testing.assert_array_equal(made.narrow.indices, made.wide.indices)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_positions_have_any_number_of_axes_and_wrong_shapes_and_groups_are_one_line(name):
    module = models.build(BOTTLENECKS[name][0])

    def shapes(*axes, channels=module.input_channels, **options):
        make = functools.partial(module.init_with_output, train=False, **options)
        return jax.eval_shape(make, jax.random.key(0), jnp.zeros((*axes, channels)))[0]

    for axes in ((2,), (2, 3), (2, 3, 1, 4)):
        found = shapes(*axes)
        assert found.latents.shape == (*axes, module.latent_channels)
        assert not BOTTLENECKS[name][2] or found.indices.shape == (*axes, module.num_groups)
    for number in (-1, module.num_groups + 1):
        with pytest.raises(ValueError, match=f"num_groups={number}") as error:
            shapes(1, 2, num_groups=number)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"\(1, 2, 99\)"):
        shapes(1, 2, channels=99)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTTLENECKS)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_split_over_eight_devices_gives_what_one_device_gives(name, axis_type):
    module = models.build(BOTTLENECKS[name][0])
    latents = jax.random.normal(jax.random.key(0), (16, 5, module.input_channels))
    variables = filled(functools.partial(module.init, train=False), latents)
    keys = {stream: jax.random.key(i) for i, stream in enumerate(("mask", "reseed", "posterior"))}

    def train(variables, latents):
        def loss_of(params, latents):
            quantized, state = module.apply(
                {**variables, "params": params},
                latents,
                train=True,
                rngs=keys,
                mutable=["codebook_stats"],
            )
            losses = sum(jnp.sum(values) for values in quantized.losses.values())
            return losses + jnp.mean(quantized.latents**2), (quantized, state)

        return jax.value_and_grad(loss_of, (0, 1), has_aux=True)(
            variables.get("params", {}), latents
        )

    one = jax.jit(train)(variables, latents)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        split = jax.device_put(latents, jax.NamedSharding(mesh, PartitionSpec("data")))
        eight = jax.jit(train)(variables, split)
    for ours, theirs in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTTLENECKS)
def test_a_user_s_transforms_give_the_plain_call_s_numbers(name):
    module = models.build(BOTTLENECKS[name][0])
    latents = jax.random.normal(jax.random.key(0), (8, 5, module.input_channels))
    variables = filled(functools.partial(module.init, train=False), latents)

    @jax.jit
    def plain(variables, x):
        quantized = module.apply(variables, x, train=False)
        return quantized.latents, quantized.indices

    def vmapped(variables, x):
        return jax.vmap(lambda one: jax.tree.map(lambda y: y[0], plain(variables, one[None])))(x)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    specs = {"in_specs": (PartitionSpec(), split), "out_specs": split}
    mapped = jax.jit(jax.shard_map(plain, mesh=mesh, **specs))
    batch = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((*batch, *latents.shape[1:]), "float32")
    exported = jax.export.export(plain)(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables), shape
    )
    expected = plain(variables, latents)
    for call in (vmapped, mapped, exported.call):
        found = call(variables, latents)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# One of each way of counting, drawing and averaging.
SENT = {
    "grouped": nodes.grouped(8, 16, 2),
    **{name: BOTTLENECKS[name][0] for name in ("rvq_ema", "fsq", "bsq", "ibq", "gaussian")},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "fsq" else pytest.mark.slow) for name in SENT],
)
def test_tokens_that_are_not_sent_count_as_if_they_were_not_there(name):
    module = models.build(SENT[name])
    latents = np.random.default_rng(0).normal(size=(2, 5, module.input_channels))
    latents = latents.astype(np.float32)
    keep = np.arange(5) < np.full((2, 1), 3)
    variables = filled(functools.partial(module.init, train=False), latents)
    keys = {stream: jax.random.key(i) for i, stream in enumerate(("reseed", "posterior"))}
    options = {"train": True, "rngs": keys, "mutable": ["codebook_stats"]}

    @jax.jit
    def run(latents, keep):
        fewer = module.apply(variables, latents[:, :3], **options)
        return module.apply(variables, latents, keep=keep, **options), fewer

    (made, state), (fewer, of_fewer) = jax.device_get(run(latents, keep))
    for ours, theirs in ((made.losses, fewer.losses), (made.stats, fewer.stats)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), ours, theirs)
    if name == "gaussian":
        return
    np.testing.assert_array_equal(made.indices[:, :3], fewer.indices)
    ours, theirs = state["codebook_stats"], of_fewer["codebook_stats"]
    np.testing.assert_allclose(ours["usage_ema"], theirs["usage_ema"], rtol=1e-6)
    # Tokens that are not sent leave holes.
    recent, of_fewer = ours["recent_indices"], theirs["recent_indices"]
    np.testing.assert_array_equal(recent[recent >= 0], of_fewer[of_fewer >= 0])
    if name == "rvq_ema":
        np.testing.assert_allclose(ours["ema_counts"], theirs["ema_counts"], rtol=1e-6)
    if "reseed_keep" in made.update:
        np.testing.assert_array_equal(made.update["reseed_keep"], fewer.update["reseed_keep"])
    if name == "grouped":
        tokens = latents[:, :3].reshape(-1, 2, 4)
        tokens = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
        for group, drawn in enumerate(made.update["reseed_codewords"]):
            distances = np.abs(drawn[:, None] - tokens[:, group]).max(-1)
            assert (distances.min(-1) < 1e-6).all()
