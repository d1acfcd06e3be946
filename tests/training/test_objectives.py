"""The tokenizer's and the discriminator's losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.filled import filled
from vqlab.training.objectives import TokenizerObjective
from vqlab.training.step import player_gradients


@pytest.fixture(scope="module")
def batch():
    return {"images": tiny.images(4)}


def make(discriminator=None, **changes):
    settings = {"lpips_weight": 0.0, "adversarial_start": 5} | changes
    return TokenizerObjective(tiny.tokenizer(), discriminator, **settings)


@functools.partial(jax.jit, static_argnums=0)
def call(objective, params, variables, batch, step):
    return objective(params, variables, {}, batch, rng=jax.random.key(1), step=step)


def losses_at(objective, batch, step):
    return call(objective, *filled(objective.init, batch), batch, step)


def test_the_loss_is_the_weighted_sum_of_its_terms(batch):
    objective = make(reconstruction="l1", reconstruction_weight=2.0, quantizer_weight=3.0)
    losses, aux = losses_at(objective, batch, 0)
    m = aux.metrics
    expected = 2.0 * m["l1"] + 3.0 * (m["vq"] + m["commit"])
    np.testing.assert_allclose(losses["tokenizer"], expected, rtol=1e-6)
    assert m["usage"].shape == m["perplexity"].shape == m["dead"].shape == (2,)


def test_group_losses_are_averaged_or_summed(batch):
    mean = losses_at(make(), batch, 0)[1].metrics
    total = losses_at(make(group_reduction="sum"), batch, 0)[1].metrics
    np.testing.assert_allclose(total["vq"], 2 * mean["vq"], rtol=1e-6)


def test_the_adversarial_terms_start_at_their_step(batch):
    objective = make(tiny.discriminator())
    before, aux = losses_at(objective, batch, 4)
    assert before["discriminator"] == 0.0 and aux.metrics["adversarial_weight"] == 0.0
    after, aux = losses_at(objective, batch, 5)
    assert after["discriminator"] > 0.0
    gain = after["tokenizer"] - before["tokenizer"]
    np.testing.assert_allclose(gain, 0.5 * aux.metrics["adversarial"], rtol=1e-4, atol=1e-6)


def test_each_player_is_a_constant_to_the_other(batch):
    objective = make(tiny.discriminator(), adversarial_start=0)
    params, variables = filled(objective.init, batch)

    @jax.jit
    def gradient_of_discriminator_loss(params):
        def loss(params):
            return objective(params, variables, {}, batch, rng=jax.random.key(1), step=0)[0][
                "discriminator"
            ]

        return jax.grad(loss)(params)

    grads = gradient_of_discriminator_loss(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads["tokenizer"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["discriminator"]))


def test_adaptive_weight_is_the_ratio_of_last_kernel_gradients(batch):
    objective = make(tiny.discriminator(), adversarial_start=0, adaptive_weight=True)
    params, variables = filled(objective.init, batch)
    _, aux = call(objective, params, variables, batch, 0)

    rng = jax.random.key(1)

    def last_kernel_norm(**changes):
        """By full back-propagation of a loss with one term only."""
        other = make(tiny.discriminator(), adversarial_start=0, quantizer_weight=0.0, **changes)
        _, grads, _ = jax.jit(
            lambda p: player_gradients(other, p, variables, {}, batch, rng=rng, step=0)
        )(params)
        return jnp.linalg.norm(grads["tokenizer"]["decoder"]["project_out"]["conv"]["kernel"])

    reconstruction = last_kernel_norm(adversarial_weight=0.0)
    adversarial = last_kernel_norm(adversarial_weight=1.0, reconstruction_weight=0.0)
    np.testing.assert_allclose(
        aux.metrics["adversarial_weight"], 0.5 * reconstruction / (adversarial + 1e-4), rtol=1e-4
    )


def test_post_update_reseeds_the_codebook_and_nothing_else(batch):
    objective = make()
    params, _ = filled(objective.init, batch)
    _, aux = losses_at(objective, batch, 0)
    updated = objective.post_update(params, aux.update)
    before, after = (p["tokenizer"]["quantizer"]["codebook"] for p in (params, updated))
    keep = aux.update["reseed_keep"][..., None]
    expected = before * keep + aux.update["reseed_codewords"] * (1 - keep)
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    same = jax.tree.map(
        lambda a, b: bool(np.array_equal(a, b)), params["tokenizer"], updated["tokenizer"]
    )
    assert same["quantizer"] == {"codebook": False}
    assert all(jax.tree.leaves({k: v for k, v in same.items() if k != "quantizer"}))


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="unknown reconstruction loss 'l3'; choose from l1, l2"):
        make(reconstruction="l3")
    with pytest.raises(ValueError, match="unknown group_reduction 'max'; choose from mean, sum"):
        make(group_reduction="max")
