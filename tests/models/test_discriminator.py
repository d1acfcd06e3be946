import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqlab.models.discriminator import PatchDiscriminator


def _random_variables(model, images):
    """Variables of the right shapes without compiling the initialisers."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32), shapes)


def test_published_size_and_logit_grid():
    model = PatchDiscriminator()
    images = jnp.zeros((2, 256, 256, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))
    logits, _ = jax.eval_shape(
        lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables
    )
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    convs = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert count == convs + 2 * (128 + 256 + 512) == 2_765_633
    assert logits.shape == (2, 30, 30, 1)


def test_each_logit_sees_70_pixels():
    model = PatchDiscriminator(channels=1)
    images = jnp.ones((1, 96, 96, 3))
    variables = _random_variables(model, images)

    def centre_logit(x):
        return model.apply(variables, x, train=False)[0, 5, 5, 0]

    touched = np.abs(jax.jit(jax.grad(centre_logit))(images)[0]).sum(-1) > 0
    rows = np.flatnonzero(touched.any(1))
    assert rows[-1] - rows[0] + 1 == 70


def test_initialisation_and_dtypes():
    model = PatchDiscriminator(channels=64, num_layers=1, dtype="bfloat16")
    images = jnp.zeros((1, 8, 8, 3))
    variables = jax.jit(lambda key: model.init(key, images, train=True))(jax.random.key(0))
    kernel = variables["params"]["conv_1"]["kernel"]
    scale = variables["params"]["norm_1"]["scale"]
    assert abs(float(kernel.std()) - 0.02) < 1e-3
    assert abs(float(scale.mean()) - 1) < 0.02 and 0.01 < float(scale.std()) < 0.03
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    logits = jax.eval_shape(lambda v: model.apply(v, images, train=False), variables)
    assert logits.dtype == jnp.float32


def test_training_updates_batch_statistics_and_evaluation_does_not():
    model = PatchDiscriminator(channels=2, num_layers=1)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = _random_variables(model, images)

    def changed(train):
        _, updates = model.apply(variables, images, train=train, mutable=["batch_stats"])
        pair = (jax.tree.leaves(x["batch_stats"]) for x in (variables, updates))
        return [not np.array_equal(a, b) for a, b in zip(*pair, strict=True)]

    assert changed(train=True) == [True, True]
    assert changed(train=False) == [False, False]


def test_smallest_side():
    model = PatchDiscriminator(channels=2)
    logits, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 24, 24, 3)), train=True)
    )
    assert logits.shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="24x23 are too small.*num_layers=3.*side is 24"):
        model.init(jax.random.key(0), jnp.zeros((1, 24, 23, 3)), train=True)
