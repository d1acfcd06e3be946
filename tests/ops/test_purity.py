"""Networks as parts of a user's own programs: each transform gives the plain call's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from tests import tiny
from tests.filled import filled
from vqlab.models.concept_decoding import decode_concepts
from vqlab.nn.quantizers import GroupedQuantizer
from vqlab.nn.transformer import Block

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
WHOLE, SPLIT = PartitionSpec(), PartitionSpec("data")


def mesh(*types):
    shape = (8,) if len(types) == 1 else (2, 4)
    return jax.make_mesh(shape, ("data", "fsdp")[: len(types)], axis_types=types)


def vmapped(f, weights, images):
    return jax.vmap(lambda image: jax.tree.map(lambda x: x[0], f(weights, image[None])))(images)


def scanned(f, weights, images):
    return jax.lax.scan(lambda _, image: (None, f(weights, image)), None, images[None])[1]


def mapped(mesh, **options):
    """shard_map over an axis that has the name of our own."""
    return lambda f, *args: jax.shard_map(
        f, mesh=mesh, in_specs=(WHOLE, SPLIT), out_specs=SPLIT, **options
    )(*args)


def exported(f, weights, images):
    batch = jax.export.symbolic_shape("b")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    symbolic = jax.ShapeDtypeStruct((*batch, *images.shape[1:]), images.dtype)
    platforms = ["cpu", "cuda", "tpu"]
    return jax.export.export(jax.jit(f), platforms=platforms)(shapes, symbolic).call(
        weights, images
    )


TRANSFORMS = {
    "vmap": vmapped,
    "scan": lambda *args: jax.tree.map(lambda x: x[0], scanned(*args)),
    "shard_map": mapped(mesh(AUTO)),
    "shard_map of one axis": mapped(mesh(AUTO, AUTO), axis_names={"data"}),
    "export": exported,
}


@pytest.fixture(scope="module")
def tokenizer():
    """(round trip, weights, images, its result); weights are NumPy arrays, as loaded."""
    module = tiny.tokenizer()

    def round_trip(weights, images):
        indices = module.apply(weights, images, method="encode").indices
        return {
            "indices": indices,
            "images": module.apply(weights, indices, method="decode_indices"),
        }

    weights = filled(module.init, tiny.images(1))
    images = np.asarray(tiny.images(8))
    return round_trip, weights, images, jax.jit(round_trip)(weights, images)


def assert_same(ours, plain, atol=2e-5):
    """Equal indices, and float32 that sums in another order."""
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=atol * (one.dtype.kind == "f"), rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_round_trip_inside_a_transform(tokenizer, name):
    f, weights, images, plain = tokenizer
    assert_same(jax.jit(TRANSFORMS[name], static_argnums=0)(f, weights, images), plain)


@pytest.mark.parametrize(
    ("types", "transform"), [((EXPLICIT, EXPLICIT), None), ((EXPLICIT, AUTO), vmapped)]
)
def test_a_batch_on_explicit_axes(tokenizer, types, transform):
    f, weights, images, plain = tokenizer
    with jax.set_mesh(mesh(*types)):
        split = jax.device_put(images, SPLIT)
        call = jax.jit(transform or (lambda f, *args: f(*args)), static_argnums=0)
        ours = call(f, weights, split)
        assert jax.typeof(ours["indices"]).sharding.spec[0] == "data"
    assert_same(ours, plain)


def test_a_batch_that_does_not_divide_is_not_split(tokenizer):
    f, weights, images, plain = tokenizer
    with jax.set_mesh(mesh(AUTO)):
        ours = jax.jit(f)(weights, images[:3])
    assert_same(ours, jax.tree.map(lambda x: x[:3], plain))


def test_training_a_quantizer_inside_shard_map_and_on_explicit_axes():
    """Inside shard_map each device counts and draws by itself: the first as if it were alone."""
    module = GroupedQuantizer(2, 16, 8, mask_range=(0.3, 0.3))
    latents = np.random.default_rng(0).normal(size=(8, 4, 4, 8)).astype(np.float32)
    weights = filled(lambda key, x: module.init(key, x, train=False), latents)
    key = jax.random.key(1)

    def train(weights, latents):
        def loss(params, latents):
            result, changed = module.apply(
                weights | {"params": params},
                latents,
                train=True,
                rngs={"mask": key, "reseed": key},
                mutable=["codebook_stats"],
            )
            total = jnp.mean(result.latents**2) + sum(map(jnp.mean, result.losses.values()))
            return total, (changed, result.stats)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(weights["params"], latents)

    def alone(weights, latents):
        own = jax.lax.pcast(weights, "data", to="varying")
        return jax.tree.map(lambda x: x[None], train(own, latents))

    everyone = jax.shard_map(alone, mesh=mesh(AUTO), in_specs=(WHOLE, SPLIT), out_specs=SPLIT)
    ours = jax.jit(everyone)(weights, latents)
    assert_same(jax.tree.map(lambda x: x[0], ours), jax.jit(train)(weights, latents[:1]))
    with jax.set_mesh(mesh(EXPLICIT)):
        params = jax.device_put(weights, WHOLE)
        ours = jax.jit(train)(params, jax.device_put(latents, SPLIT))
    assert_same(ours, jax.jit(train)(weights, latents))


def test_gradients_of_a_transformer_inside_shard_map_and_on_explicit_axes():
    """Its products and its attention have derivatives of their own."""
    block = Block(num_heads=2, causal_from=3)
    x = np.random.default_rng(0).normal(size=(8, 5, 8)).astype(np.float32)
    weights = filled(block.init, x)

    def gradient(weights, x, mean=lambda x: x):
        return jax.grad(lambda weights: mean(jnp.mean(block.apply(weights, x) ** 3)))(weights)

    plain = jax.jit(gradient)(weights, x)
    inside = jax.shard_map(
        lambda *args: gradient(*args, mean=lambda x: jax.lax.pmean(x, "data")),
        mesh=mesh(AUTO),
        in_specs=(WHOLE, SPLIT),
        out_specs=WHOLE,
    )
    assert_same(jax.jit(inside)(weights, x), plain)
    with jax.set_mesh(mesh(EXPLICIT)):
        ours = jax.jit(gradient)(jax.device_put(weights, WHOLE), jax.device_put(x, SPLIT))
    assert_same(ours, plain)


def test_concepts_are_decoded_inside_shard_map_and_on_explicit_axes():
    """With one key for all devices, each draws the noise of the first."""
    module, weights = tiny.semanticist()
    concepts = np.random.default_rng(0).normal(size=(8, 4, 4)).astype(np.float32)

    @jax.jit
    def decode(weights, concepts):
        key = jax.random.key(0)
        return decode_concepts(module, weights, {}, concepts, key=key, num_steps=2)

    plain = decode(weights, concepts)
    scale = np.abs(plain).max()
    with jax.set_mesh(mesh(EXPLICIT)):
        ours = decode(weights, jax.device_put(concepts, SPLIT))
    assert_same(ours, plain, atol=1e-6 * scale)
    inside = jax.shard_map(decode, mesh=mesh(AUTO), in_specs=(WHOLE, SPLIT), out_specs=SPLIT)
    concepts[1:] = concepts[0]
    ours = jax.jit(inside)(weights, concepts)
    assert_same(ours, np.broadcast_to(ours[:1], ours.shape))
