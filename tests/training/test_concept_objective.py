"""Semanticist's loss: which concepts it sees when, REPA, and precomputed latents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import _common
from tests import tiny, tiny_kl
from tests.filled import filled, zeros
from vqlab.training import sharding
from vqlab.training.objectives.concept_diffusion import ConceptObjective, repa_loss
from vqlab.training.optim import build_optimizer
from vqlab.training.step import init_state, make_train_step


@pytest.fixture(scope="module")
def made():
    module, variables = tiny.semanticist()
    params = variables.pop("params")
    return module, {"tokenizer": params}, {"tokenizer": variables}


@functools.partial(jax.jit, static_argnums=0)
def call(objective, params, variables, frozen, batch, step, seed):
    rng = jax.random.key(seed)
    return objective(params, variables, frozen, batch, rng=rng, step=step)


@functools.partial(jax.jit, static_argnums=0)
def gradient(objective, params, *args):
    return jax.grad(lambda params: call(objective, params, *args)[0]["tokenizer"])(params)


def run(made, batch=None, frozen=None, *, step=0, seed=0, function=call, **settings):
    module, params, variables = made
    objective = ConceptObjective(tokenizer=module, **settings)
    batch = {"images": jnp.asarray(tiny.images(8, 16))} if batch is None else batch
    return function(objective, params, variables, frozen or {}, batch, step, seed)


def null_gradient(made, **settings):
    """Norm of the gradient that each null concept gets."""
    grads = run(made, function=gradient, **settings)
    return np.linalg.norm(grads["tokenizer"]["decoder"]["null_concepts"], axis=-1)


def test_the_loss_is_the_sum_of_its_terms(made):
    losses, aux = run(made)
    np.testing.assert_allclose(
        losses["tokenizer"], aux.metrics["mse"] + aux.metrics["vb"], rtol=1e-6
    )
    assert set(aux.metrics) == {"mse", "vb"}


def test_nested_guidance_starts_at_its_step(made):
    settings = {"condition_dropout": 0.0, "nested_start": 10}
    before, after = (null_gradient(made, step=step, **settings) for step in (9, 10))
    assert (before == 0).all()
    # The first concept is always kept, so its null is never trained; the last one's is most often.
    assert after[0] == 0 and (after[1:] > 0).all()


def test_without_nesting_nulls_come_all_together(made):
    norms = null_gradient(made, condition_dropout=0.5, nested_start=-1, step=10**6)
    assert (norms > 0).all()


def test_null_share_trains_the_first_null_too(made):
    assert null_gradient(made, null_share=0.5, nested_start=0)[0] > 0


def test_more_draws_an_image_cost_no_more_encoder(made):
    once, aux = run(made)
    often, _ = run(made, draws_per_image=4)
    assert once["tokenizer"].shape == often["tokenizer"].shape == ()
    assert not np.array_equal(once["tokenizer"], often["tokenizer"])


def test_repa_aligns_with_the_targets():
    node = tiny.semanticist_node()
    node["decoder"] |= {"repa_dim": 6, "repa_width": 8}
    module, variables = tiny.semanticist(**node)
    params = variables.pop("params")
    made = module, {"tokenizer": params}, {"tokenizer": variables}
    images = jnp.asarray(tiny.images(8, 16))
    target = jax.random.normal(jax.random.key(0), (8, 4, 4, 6))
    batch = {"images": images, "repa_features": target}
    losses, aux = run(made, batch, repa_weight=0.5)
    assert -1 <= aux.metrics["repa"] <= 1
    total = aux.metrics["mse"] + aux.metrics["vb"] + 0.5 * aux.metrics["repa"]
    np.testing.assert_allclose(losses["tokenizer"], total, rtol=1e-6)


def test_repa_loss_by_hand():
    features = jnp.asarray([[3.0, 4.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    projected = jnp.asarray([[4.0, 3.0], [5.0, 0.0]]).reshape(2, 1, 1, 2)
    assert repa_loss(projected, features) == pytest.approx(-(24 / 25 + 0) / 2)
    assert repa_loss(projected, 7 * features) == pytest.approx(-(24 / 25 + 0) / 2)
    gradient = jax.grad(lambda x: repa_loss(x, features))(jnp.zeros_like(projected))
    assert np.isfinite(gradient).all()


def test_stored_moments_give_what_the_autoencoder_gives():
    node = tiny.semanticist_node()
    node["decoder"] |= {"latent_size": 8, "in_channels": 4, "out_channels": 8, "patch_size": 4}
    node["latent_space"] = {"name": "autoencoder_space", "autoencoder": tiny_kl.node()}
    module, variables = tiny.semanticist(**node)
    params = variables.pop("params")
    made = module, {"tokenizer": params}, {"tokenizer": variables}
    images = jnp.asarray(tiny.images(8, 16))
    autoencoder = filled(module.latent_space.autoencoder.init, images[:1])
    moments = jax.jit(module.latent_space.moments)(autoencoder, images)
    online, _ = run(made, {"images": images}, {"latent_space": autoencoder})
    stored, _ = run(made, {"images": images, "moments": moments})
    np.testing.assert_allclose(online["tokenizer"], stored["tokenizer"], rtol=1e-5)
    with pytest.raises(ValueError, match="of another autoencoder"):
        run(made, {"images": images, "moments": moments[..., :4]})


def test_on_eight_devices_the_step_is_that_of_one(made, monkeypatch):
    """Under SGD, whose update is linear in the gradient; everything that can be split is."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)
    module = made[0]
    objective = ConceptObjective(tokenizer=module)
    optimizers = {
        "tokenizer": build_optimizer("sgd", learning_rate=0.1, num_steps=2, schedule="constant")
    }
    batch = {"images": jnp.asarray(tiny.images(8, 16))}
    state = zeros(lambda _: init_state(objective, optimizers, batch, seed=0))
    state = state.replace(params=made[1], variables=made[2])
    step = make_train_step(objective, optimizers, seed=0)
    alone, metrics = jax.jit(step)(state, {}, batch)

    mesh = sharding.make_mesh(2, 2, 2)
    odd = ("repa|to_concepts/bias|patch_embed/kernel|final_linear", "replicate")
    places = sharding.tree_sharding(state, mesh, (odd, *_common.TRANSFORMER_SHARDING))
    kernel = places.params["tokenizer"]["decoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.spec == PartitionSpec(None, None, ("tensor", "fsdp"))
    with jax.set_mesh(mesh):
        spread, spread_metrics = jax.jit(
            step, in_shardings=(places, None, sharding.batch_sharding(mesh))
        )(jax.device_put(state, places), {}, batch)
    np.testing.assert_allclose(spread_metrics["mse"], metrics["mse"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
        spread.params,
        alone.params,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"condition_dropout": 1.5}, "condition_dropout=1.5 is no share"),
        ({"null_share": -0.1}, "null_share=-0.1 is no share"),
        ({"nested_start": -2}, "nested_start=-2: choose a step, or -1 for never"),
        ({"draws_per_image": 0}, "draws_per_image=0 must be at least 1"),
    ],
)
def test_wrong_settings_are_named(made, settings, message):
    with pytest.raises(ValueError, match=message):
        ConceptObjective(tokenizer=made[0], **settings)
