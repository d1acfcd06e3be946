"""The losses of second stages by hand, and their step on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import _gpt
from tests import tiny, tiny_generator
from tests.filled import zeros
from vqlab import models
from vqlab.training import sharding
from vqlab.training.objectives import ConceptPredictionObjective, IndexObjective
from vqlab.training.optim import build_optimizer
from vqlab.training.step import init_state, make_train_step

QUIET = {"dropout": 0.0, "label_dropout": 0.0}
LABELS = jnp.array([0, 7, 3, 3])


def made(kind, node, **settings):
    """(objective, its params, its other variables)."""
    collections = tiny_generator.variables(node)
    params = collections.pop("params")
    objective = kind(generator=models.build(node), **settings)
    return objective, {"generator": params}, {"generator": collections}


def run(objective, params, variables, frozen, batch, seed=0):
    """({player: loss}, metrics) of one call."""

    @jax.jit
    def call(params, frozen, batch):
        losses, aux = objective(
            params, variables, frozen, batch, rng=jax.random.key(seed), step=jnp.int32(0)
        )
        return losses, aux.metrics

    return call(params, frozen, batch)


def test_equal_logits_cost_the_logarithm_of_the_codewords():
    node = tiny_generator.index_node()
    objective, _, variables = made(IndexObjective, node)
    params = zeros(objective.generator.init, jnp.zeros((1, 8, 8, 3)))["params"]
    frozen = {"tokenizer": tiny_generator.variables(node["tokenizer"])}
    indices = jax.random.randint(jax.random.key(0), (4, 4, 4, 2), 0, 16)
    batch = {"indices": indices, "labels": LABELS}
    losses, metrics = run(objective, {"generator": params}, variables, frozen, batch)
    assert losses["generator"] == pytest.approx(np.log(16), rel=1e-5)
    assert metrics["nll_g1"] == pytest.approx(np.log(16), rel=1e-5)


def test_labels_and_branches_are_dropped_in_training():
    frozen = {"tokenizer": tiny_generator.variables(tiny_generator.index_tokenizer())}
    batch = {"indices": jnp.zeros((4, 4, 4, 2), jnp.int32), "labels": LABELS}
    node = tiny_generator.index_node(dropout=0.5, label_dropout=1.0)
    objective, params, variables = made(IndexObjective, node)

    @jax.jit
    def loss(batch, seed):
        rng = jax.random.key(seed)
        return objective(params, variables, frozen, batch, rng=rng, step=0)[0]["generator"]

    other = batch | {"labels": LABELS[::-1]}
    assert loss(batch, 0) == loss(other, 0)  # no class is left
    assert loss(batch, 0) != loss(batch, 1)


def test_prepare_makes_codes_unless_they_are_there():
    node = tiny_generator.index_node()
    objective, *_ = made(IndexObjective, node)
    variables = tiny_generator.variables(node["tokenizer"])
    images = jnp.asarray(tiny.images(2, 8))
    batch = {"images": images, "labels": LABELS[:2]}
    prepared = jax.eval_shape(objective.prepare, {"tokenizer": variables}, batch)
    assert prepared["indices"].shape == (2, 4, 4, 2) and prepared["indices"].dtype == jnp.int32
    assert objective.prepare({}, prepared) == prepared  # nothing frozen is looked at


@pytest.mark.parametrize("process", ["flow", "ddpm"])
def test_the_loss_of_a_head_that_predicts_nothing(process):
    """Zeros for the velocity or the noise: the mean square of what was to be predicted."""
    node = tiny_generator.concept_node(**QUIET)
    if process == "ddpm":
        node["process"] = {"name": "ddpm", "schedule": "cosine"}
        node["head_conditioning"] = "adaln"
    objective, _, variables = made(ConceptPredictionObjective, node)
    module = objective.generator
    params = zeros(module.init, jnp.zeros((1, 16, 16, 3)))["params"]
    concepts = jax.random.normal(jax.random.key(1), (4, 4, 4))
    batch = {"concepts": concepts, "labels": LABELS}
    losses, metrics = run(objective, {"generator": params}, variables, {}, batch)
    key = jax.random.split(jax.random.key(0), 3)[0]  # "draws" of three streams
    noise, _ = module.draw(key, 4, 4)
    assert noise.shape == (4, 4, 3, 4)  # draws, images, the three concepts kept, numbers
    target = concepts[:, :3] - noise if process == "flow" else noise
    assert metrics["mse"] == pytest.approx(float(jnp.mean(target**2)), rel=1e-5)
    assert losses["generator"] == pytest.approx(sum(map(float, metrics.values())), rel=1e-5)


def test_draws_are_counted():
    with pytest.raises(ValueError, match="draws_per_token=0 is out of range: at least 1"):
        made(ConceptPredictionObjective, tiny_generator.concept_node(), draws_per_token=0)


def test_rules_split_every_large_array(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)
    module = models.build(tiny_generator.index_node())
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    places = sharding.tree_sharding(shapes, sharding.make_mesh(2, 2, 2), _gpt.SHARDING)["params"]
    mlp = places["blocks"]["mlp"]
    assert mlp["w1"]["kernel"].spec == PartitionSpec(None, None, ("tensor", "fsdp"))
    assert mlp["w2"]["kernel"].spec == PartitionSpec(None, ("tensor", "fsdp"))
    of_head = places["head"]["blocks"]["attention"]["proj"]["kernel"].spec
    assert of_head == PartitionSpec(None, ("tensor", "fsdp"))


@pytest.mark.slow
def test_on_eight_devices_the_step_is_that_of_one(monkeypatch):
    """Under SGD, whose update is linear in the gradient; everything that can be split is."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)
    node = tiny_generator.index_node(**QUIET)
    objective, params, _ = made(IndexObjective, node)
    frozen = {"tokenizer": tiny_generator.variables(node["tokenizer"])}
    sgd = build_optimizer("sgd", learning_rate=0.1, num_steps=2, schedule="constant")
    optimizers = {"generator": sgd}
    batch = {"images": jnp.asarray(tiny.images(8, 8)), "labels": jnp.arange(8) % 8}
    state = zeros(lambda _: init_state(objective, optimizers, batch, seed=0))
    state = state.replace(params=params)
    step = make_train_step(objective, optimizers, seed=0)
    alone, metrics = jax.jit(step)(state, frozen, batch)
    mesh = sharding.make_mesh(2, 2, 2)
    places = sharding.tree_sharding(state, mesh, (("embedding", "replicate"), *_gpt.SHARDING))
    with jax.set_mesh(mesh):
        spread, spread_metrics = jax.jit(
            step, in_shardings=(places, None, sharding.batch_sharding(mesh))
        )(jax.device_put(state, places), frozen, batch)
    np.testing.assert_allclose(spread_metrics["nll_g0"], metrics["nll_g0"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
        spread.params,
        alone.params,
    )
