import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs._semanticist import DECODERS
from tests.filled import filled
from vqlab.models.dit import DiT, DiTBlock, modulated_norm
from vqlab.ops.nesting import keep_first
from vqlab.training import sharding

SIZES = dict(
    latent_size=8,
    in_channels=4,
    out_channels=8,
    patch_size=2,
    width=32,
    depth=3,
    num_heads=4,
    num_concepts=6,
    concept_dim=8,
    repa_layer=2,
    repa_width=16,
)
RNG = np.random.default_rng(0)
X_T, CONCEPTS = (
    jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((2, 8, 8, 4), (2, 6, 8))
)
T = jnp.array([3.0, 700.0])


@pytest.fixture(scope="module")
def variables():
    return filled(DiT(**SIZES, repa_dim=12).init, X_T, T, CONCEPTS)


@pytest.fixture(scope="module")
def denoise(variables):
    model = DiT(**SIZES, repa_dim=12)
    return jax.jit(
        lambda concepts, keep, x_t=X_T, t=T: model.apply(
            variables, x_t, t, concepts, keep_mask=keep
        )
    )


def test_a_fresh_network_predicts_zero_and_has_the_scales_of_dit():
    """Xavier uniform has the variance 2 / (fan_in + fan_out); adaLN and its gates are zero."""
    model = DiT(**SIZES | {"width": 128, "depth": 2})
    (prediction, features), variables = jax.jit(model.init_with_output)(
        jax.random.key(0), X_T, T, CONCEPTS
    )
    assert prediction.shape == (2, 8, 8, 8) and prediction.dtype == jnp.float32
    assert not prediction.any() and features is None
    params = variables["params"]
    blocks = params["blocks"]

    def deviation(leaf):
        return float(np.std(leaf))

    assert deviation(blocks["attention"]["qkv"]["kernel"]) == pytest.approx((2 / 512) ** 0.5, 0.05)
    assert deviation(blocks["mlp"]["fc1"]["kernel"]) == pytest.approx((2 / 640) ** 0.5, 0.05)
    assert deviation(params["patch_embed"]["kernel"]) == pytest.approx((2 / 144) ** 0.5, 0.05)
    assert deviation(params["time_fc1"]["kernel"]) == pytest.approx(0.02, 0.05)
    assert deviation(params["null_concepts"]) == pytest.approx(0.02, 0.4)
    assert not params["modulation"]["kernel"].any()


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_concepts_that_are_not_kept_change_no_bit(denoise, kept):
    keep = keep_first(jnp.array([kept, 6]), 6)
    before = denoise(CONCEPTS, keep)
    for other in (jnp.nan, 1e30):
        after = denoise(CONCEPTS.at[0, kept:].set(other), keep)
        np.testing.assert_array_equal(before.prediction, after.prediction)
        np.testing.assert_array_equal(before.features, after.features)


def test_each_kept_concept_changes_the_prediction(denoise):
    keep = keep_first(jnp.array([4, 4]), 6)
    before = denoise(CONCEPTS, keep).prediction
    for i in range(4):
        after = denoise(CONCEPTS.at[:, i].add(1.0), keep).prediction
        assert np.abs(before - after).max() > 1e-4


def test_nulls_stand_in_for_concepts_of_their_place(denoise, variables):
    everything = jnp.ones((2, 6), bool)
    nulls = jnp.tile(variables["params"]["null_concepts"], (2, 1, 1))
    mixed = jnp.concatenate([CONCEPTS[:, :2], nulls[:, 2:]], axis=1)
    np.testing.assert_array_equal(
        denoise(mixed, everything).prediction,
        denoise(CONCEPTS, keep_first(jnp.array([2, 2]), 6)).prediction,
    )
    np.testing.assert_array_equal(
        denoise(CONCEPTS, None).prediction, denoise(CONCEPTS, everything).prediction
    )


def test_concepts_have_no_position(denoise):
    everything = jnp.ones((2, 6), bool)
    before = denoise(CONCEPTS, everything).prediction
    after = denoise(CONCEPTS[:, jnp.array([3, 0, 5, 1, 4, 2])], everything).prediction
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_time_and_place_matter(denoise):
    everything = jnp.ones((2, 6), bool)
    before = denoise(CONCEPTS, everything).prediction
    assert np.abs(denoise(CONCEPTS, everything, t=T + 100).prediction - before).max() > 1e-3
    moved = jnp.roll(denoise(CONCEPTS, everything, x_t=jnp.roll(X_T, 2, 1)).prediction, -2, 1)
    assert np.abs(moved - before).max() > 1e-3


def test_features_come_after_their_block(variables):
    """No later block has a gradient, every earlier one has."""
    model = DiT(**SIZES, repa_dim=12)

    def objective(params):
        output = model.apply(variables | {"params": params}, X_T, T, CONCEPTS)
        return jnp.sum(output.features**2)

    gradient = jax.jit(jax.grad(objective))(variables["params"])
    by_layer = np.abs(gradient["blocks"]["mlp"]["fc2"]["kernel"]).max(axis=(1, 2))
    assert (by_layer[:2] > 0).all() and (by_layer[2:] == 0).all()
    assert not gradient["final_linear"]["kernel"].any()


def test_features_change_no_prediction_and_cost_nothing_when_off(variables, denoise):
    params = {k: v for k, v in variables["params"].items() if not k.startswith("repa_")}
    model = DiT(**SIZES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X_T, T, CONCEPTS)
    assert shapes["params"].keys() == params.keys()
    without = jax.jit(model.apply)(variables | {"params": params}, X_T, T, CONCEPTS)
    with_features = denoise(CONCEPTS, jnp.ones((2, 6), bool))
    assert without.features is None and with_features.features.shape == (2, 4, 4, 12)
    np.testing.assert_allclose(without.prediction, with_features.prediction, atol=1e-6)


def test_other_latent_sizes_interpolate_the_table(variables):
    model = DiT(**SIZES)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("repa_")}
    params["patch_embed"] = jax.tree.map(jnp.zeros_like, params["patch_embed"])
    line = jnp.repeat(jnp.arange(4.0), 4)[:, None] * jnp.ones(32)  # its row: a cubic bends it
    weights = {"params": params, "constants": {"position_table": line}}

    @jax.jit
    def run(x_t):
        output, state = model.apply(
            weights,
            x_t,
            T,
            CONCEPTS,
            capture_intermediates=lambda _, method: method == "_patches",
        )
        return output.prediction, state["intermediates"]["_patches"][0]

    prediction, tall = run(jnp.zeros((2, 16, 6, 4)))
    assert prediction.shape == (2, 16, 6, 8) and tall.shape == (2, 8, 3, 32)
    np.testing.assert_allclose(tall[0, 3:5, :, 0], [[1.296875] * 3, [1.703125] * 3], rtol=1e-5)


def test_the_position_table_is_no_parameter():
    shapes = jax.eval_shape(DiT(**SIZES).init, jax.random.key(0), X_T, T, CONCEPTS)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["constants"]) == {
        "position_table": (16, 32)
    }
    assert "position_table" not in shapes["params"]


def test_recomputing_changes_no_gradient(variables):
    def gradient(remat):
        model = DiT(**SIZES, repa_dim=12, remat=remat)

        def objective(params):
            output = model.apply(variables | {"params": params}, X_T, T, CONCEPTS)
            return jnp.sum(output.prediction**2) + jnp.sum(output.features**2)

        return jax.jit(jax.grad(objective))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max()),
        gradient(False),
        gradient(True),
    )


def test_split_over_devices_it_is_what_one_device_computes(variables):
    model = DiT(**SIZES, repa_dim=12)
    x_t, t, concepts = (jnp.concatenate([a] * 4) for a in (X_T, T, CONCEPTS))
    keep = keep_first(jnp.arange(8) % 7, 6)

    def run(x_t, t, concepts, keep):
        return model.apply(variables, x_t, t, concepts, keep_mask=keep)

    expected = jax.jit(run)(x_t, t, concepts, keep)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
        output = jax.jit(run)(*(jax.device_put(a, split) for a in (x_t, t, concepts, keep)))
    np.testing.assert_allclose(output.prediction, expected.prediction, atol=1e-4)
    np.testing.assert_allclose(output.features, expected.features, atol=1e-4)


def test_bfloat16_activations_give_float32_predictions_nearby(variables, denoise):
    exact = denoise(CONCEPTS, jnp.ones((2, 6), bool))
    model = DiT(**SIZES, repa_dim=12, dtype="bfloat16")
    rounded = jax.jit(model.apply)(variables, X_T, T, CONCEPTS)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


def test_branches_of_bfloat16_add_up_in_float32():
    """Also modulations, whose 1 + scale bfloat16 would round to a multiple of 1/128."""
    block = DiTBlock(num_heads=4, dtype="bfloat16")
    x, modulation = jnp.ones((1, 3, 16)), jnp.zeros((1, 96), jnp.bfloat16)
    y, _ = block.init_with_output(jax.random.key(0), x, modulation)
    assert y.dtype == jnp.float32

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, scale):
            return modulated_norm(jnp.arange(16.0).reshape(1, 1, 16), 0 * scale, scale)

    scale = jnp.full((1, 1, 16), 2.0**-10, jnp.bfloat16)
    expected = Norm().apply({}, 0 * scale) * (1 + 2.0**-10)
    np.testing.assert_allclose(Norm().apply({}, scale), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "width 32 does not split into 5 heads"),
        ({"width": 30, "num_heads": 5}, "30 channels of a position table are no multiple of 4"),
        ({"latent_size": 7}, "latent_size=7 is no multiple of patch_size=2"),
        ({"repa_dim": 12, "repa_layer": 4}, r"repa_layer=4 is out of range: choose 1\.\.3"),
        ({"in_channels": 3}, r"latents \(2, 8, 8, 4\) must be \[B, h, w, 3\]"),
        ({"patch_size": 4, "latent_size": 4}, None),
        ({"patch_size": 3, "latent_size": 6}, "latents of 8x8: both sides must be multiples of 3"),
        ({"num_concepts": 7}, r"concepts \(2, 6, 8\) must be \[B, 7, 8\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    def shapes():
        return jax.eval_shape(DiT(**SIZES | change).init, jax.random.key(0), X_T, T, CONCEPTS)

    if message is None:
        assert shapes()["params"]["patch_embed"]["kernel"].shape == (4, 4, 4, 32)
    else:
        with pytest.raises(ValueError, match=message):
            shapes()


def test_published_widths_split_into_heads():
    assert {name: width // heads for name, (_, width, heads) in DECODERS.items()} == {
        "S": 64,
        "B": 64,
        "L": 64,
        "XL": 72,
    }


def test_modulation_kernels_split_over_fsdp_never_travel():
    """Neither they nor their gradients, a third of the parameters, are whole on any device."""
    model = DiT(**SIZES)
    mesh = sharding.make_mesh(2, 4)
    arguments = (jnp.zeros((16, 8, 8, 4)), jnp.zeros(16), jnp.zeros((16, 6, 8)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    places = sharding.tree_sharding(shapes, mesh, [(".*", "fsdp")])
    assert shapes["params"]["modulation"]["kernel"].shape == (3, 32, 192)
    assert places["params"]["modulation"]["kernel"].spec == jax.P(None, None, "fsdp")

    def loss(variables, *arguments):
        return jnp.mean(model.apply(variables, *arguments).prediction ** 2)

    batch = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.grad(loss), in_shardings=(places, batch, batch, batch), out_shardings=places
        )
        program = step.lower(shapes, *arguments).compile().as_text()
    assert re.search(r"f32\[3,(32,48|48,32)\]", program)  # a device's part of a kernel
    assert not re.search(r"f32\[3,(32,192|192,32)\]", program)
