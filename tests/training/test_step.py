"""The train step: gradients per player, accumulation, averaging, and any mesh alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from vqlab.training import sharding
from vqlab.training.objectives import TokenizerObjective
from vqlab.training.optim import build_optimizer, build_schedule, current_rate
from vqlab.training.step import Aux, init_state, make_train_step, player_gradients

RULES = (("codebook", "replicate"), (".*", "fsdp"))


class Quadratic:
    """Two players who disagree: a wants a = b, b wants b = -a and the batch's mean."""

    def init(self, rng, batch):
        return {"a": {"w": jnp.float32(1.0)}, "b": {"w": jnp.float32(3.0)}}, {"a": {}, "b": {}}

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        a, b = params["a"]["w"], params["b"]["w"]
        losses = {"a": (a - b) ** 2, "b": (b + a) ** 2 + b * jnp.mean(batch["x"])}
        return losses, Aux(variables, {"sum": a + b}, ())

    def post_update(self, params, update):
        return params


def sgd(learning_rate=0.1):
    return build_optimizer("sgd", learning_rate=learning_rate, num_steps=10, schedule="constant")


def test_each_player_follows_its_own_loss():
    objective = Quadratic()
    batch = {"x": jnp.array([1.0, 3.0])}
    params, variables = objective.init(None, batch)
    losses, grads, _ = player_gradients(objective, params, variables, {}, batch, rng=None, step=0)
    assert losses == {"a": 4.0, "b": 22.0}
    # By hand: d(a-b)^2/da = 2(1-3); d((b+a)^2 + 2b)/db = 2(3+1) + 2.
    assert grads == {"a": {"w": -4.0}, "b": {"w": 10.0}}


def test_step_applies_updates_and_reports_norms():
    objective, optimizers = Quadratic(), {"a": sgd(), "b": sgd()}
    batch = {"x": jnp.array([1.0, 3.0])}
    state = init_state(objective, optimizers, batch, seed=0)
    state, metrics = jax.jit(make_train_step(objective, optimizers, seed=0))(state, {}, batch)
    np.testing.assert_allclose(state.params["a"]["w"], 1.4, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], 2.0, rtol=1e-6)
    assert int(state.step) == 1
    assert float(metrics["loss/a"]) == 4.0 and float(metrics["grad_norm/b"]) == 10.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_learning_rate_is_that_of_the_updates_made(name):
    settings = {"schedule": "cosine", "warmup_steps": 4, "num_steps": 8}
    schedule = build_schedule("cosine", 0.4, warmup_steps=4, num_steps=8)
    one = build_optimizer(name, learning_rate=0.4, clip_norm=1.0, **settings)
    objective, optimizers = Quadratic(), {"a": one, "b": sgd()}
    rates = {"a": functools.partial(current_rate, schedule)}
    step = jax.jit(make_train_step(objective, optimizers, seed=0, learning_rates=rates))
    seen, state = [], init_state(objective, optimizers, {"x": jnp.zeros(1)}, seed=0)
    for x in (1.0, 1.0, jnp.nan, 1.0):  # the third changes nothing
        state, metrics = step(state, {}, {"x": jnp.array([x])})
        seen.append(float(metrics["learning_rate/a"]))
    np.testing.assert_allclose(seen, [0.0, 0.1, 0.2, 0.2], rtol=1e-6)
    assert "learning_rate/b" not in metrics


def test_accumulated_micro_batches_equal_the_whole_batch():
    objective, optimizers = Quadratic(), {"a": sgd(), "b": sgd()}
    batch = {"x": jnp.arange(8.0)}
    state = init_state(objective, optimizers, batch, seed=0)
    whole, _ = make_train_step(objective, optimizers, seed=0)(state, {}, batch)
    parts, metrics = make_train_step(objective, optimizers, seed=0, accumulate=4)(state, {}, batch)
    np.testing.assert_allclose(parts.params["b"]["w"], whole.params["b"]["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics["sum"], 4.0, rtol=1e-6)


def test_ema_warms_up_then_decays():
    objective, optimizers = Quadratic(), {"a": sgd(), "b": sgd()}
    batch = {"x": jnp.zeros(2)}
    state = init_state(objective, optimizers, batch, seed=0, averaged=("a",))
    step = make_train_step(objective, optimizers, seed=0, ema_decay=0.5)
    state, _ = step(state, {}, batch)
    # The first step's decay is min(0.5, 1/10): 0.1 * 1.0 + 0.9 * 1.4.
    np.testing.assert_allclose(state.ema["a"]["w"], 1.36, rtol=1e-6)
    state = state.replace(step=jnp.int32(1000))
    later, _ = step(state, {}, batch)
    expected = 0.5 * 1.36 + 0.5 * float(later.params["a"]["w"])
    np.testing.assert_allclose(later.ema["a"]["w"], expected, rtol=1e-6)


def tokenizer_objective(discriminator=None, **changes):
    settings = {"lpips_weight": 0.0, "adversarial_start": 0} | changes
    return TokenizerObjective(tiny.tokenizer(mask_probs=(0.0, 0.3)), discriminator, **settings)


def run_on_mesh(objective, data, fsdp, accumulate):
    """The state and metrics after two SGD steps on a mesh of data x fsdp devices."""
    mesh = sharding.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
    optimizers = {player: sgd(0.01) for player in objective.players}
    batch = {"images": tiny.images(16)}

    def init():
        return init_state(objective, optimizers, batch, seed=0, averaged=("tokenizer",))

    with jax.set_mesh(mesh):
        places = sharding.tree_sharding(jax.eval_shape(init), mesh, RULES)
        state = jax.jit(init, out_shardings=places)()
        step = jax.jit(
            make_train_step(objective, optimizers, seed=0, ema_decay=0.9, accumulate=accumulate),
            out_shardings=(places, sharding.replicated(mesh)),
            donate_argnums=0,
        )
        for _ in range(2):
            state, metrics = step(state, {}, sharding.global_batch(batch, mesh))
    return state, metrics


def test_a_2x4_mesh_gives_the_single_device_result(monkeypatch):
    """Of two players and an accumulated batch."""
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 512)  # so that every kernel is split
    objective = tokenizer_objective(tiny.discriminator(), adaptive_weight=True)
    alone, alone_metrics = run_on_mesh(objective, 1, 1, accumulate=2)
    spread, spread_metrics = run_on_mesh(objective, 2, 4, accumulate=2)
    for name, value in alone_metrics.items():
        np.testing.assert_allclose(spread_metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    trees = [(s.params, s.variables, s.ema) for s in (alone, spread)]
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            b, a, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path)
        ),
        *jax.device_get(trees),
    )


def test_optimizer_moments_and_ema_are_placed_like_their_parameters():
    mesh = sharding.make_mesh(2, 4)
    arrays = {"kernel": jnp.zeros((3, 3, 64, 128)), "codebook": jnp.zeros((4, 4096, 8))}
    params = {"tokenizer": arrays}
    tree = {"params": params, "opt_state": optax.adam(1e-3).init(params), "ema": params}
    places = sharding.tree_sharding(tree, mesh, RULES)
    kernels = [
        str(place.spec)
        for path, place in jax.tree_util.tree_leaves_with_path(places)
        if "kernel" in sharding.path_name(path)
    ]
    assert kernels == ["P(None, None, None, 'fsdp')"] * 4
    codebooks = [
        place.spec
        for path, place in jax.tree_util.tree_leaves_with_path(places)
        if "codebook" in sharding.path_name(path)
    ]
    assert all(not any(spec) for spec in codebooks)
