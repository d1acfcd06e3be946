"""The train step: one pure function for every method in this code base.

An objective says what each player (an ordinary model, or the two of a GAN) wants to be small;
the step turns that into gradients, updates, averaged weights and metrics. Randomness is a
function of the seed and the step, so nothing random is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax
import jax
import jax.numpy as jnp
import optax
from einops import rearrange

Tree = Any


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run changes. Dictionaries are keyed by player.

    Attributes:
      step: int32 scalar, the number of finished steps.
      params: float32 parameters.
      variables: mutable collections ("batch_stats", "codebook_stats").
      opt_state: optimizer states.
      ema: averaged parameters, of the players that are averaged; empty when none is.
    """

    step: jax.Array
    params: dict[str, Tree]
    variables: dict[str, Tree]
    opt_state: dict[str, Tree]
    ema: dict[str, Tree]


class Aux(NamedTuple):
    """What an objective returns beside its losses.

    Attributes:
      variables: the new mutable collections, keyed by player.
      metrics: name -> scalar or vector, float32.
      update: whatever `post_update` needs.
    """

    variables: dict[str, Tree]
    metrics: dict[str, jax.Array]
    update: Tree


class Stored(NamedTuple):
    """An array that records may hold, so that the network which makes it need not run.

    Attributes:
      network: the frozen network that makes it.
      dtype: that it is stored in; "" for the one that the user chooses.
      replaces: an input that a batch which brings it need not bring: "images", or "" for none.
    """

    network: str
    dtype: str = ""
    replaces: str = ""


class Objective(Protocol):
    """What a network is trained for: losses of its players, and what happens after their updates.

    Attributes:
      players: names that params, losses and optimizers are keyed by. The first one is evaluated and
        exported; `network` is its module.
      inputs: the arrays that a batch has to bring: "images", or "images" and "labels".
      needs: the frozen networks that `prepare` and the losses take.
      stored: what `prepare` adds, and records may bring instead.
    """

    players: tuple[str, ...]
    network: Any
    inputs: tuple[str, ...]
    needs: tuple[str, ...]
    stored: Mapping[str, Stored]

    @classmethod
    def create(cls, network: Any, build_part: Callable[[str], Any], **settings: Any) -> Objective:
        """For the network of a config; `build_part` builds another node of the config by name."""

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The arguments of `create` that a config may give."""

    def init(self, rng: jax.Array, batch: dict) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(params, variables), keyed by player; `batch` gives the shapes."""

    def prepare(self, frozen: Mapping[str, Tree], batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch as the losses take it: images as floats, and what frozen networks make of them.

        The step runs it, `tokenize` stores what it adds, `plan` counts it: one truth for all.
        """

    def __call__(self, params, variables, frozen, batch, *, rng, step) -> tuple[dict, Aux]:
        """One scalar loss per player."""

    def post_update(self, params: dict[str, Tree], update: Tree) -> dict[str, Tree]:
        """A change of parameters that is no gradient step, such as codebook reseeding."""


def init_state(
    objective: Objective,
    optimizers: dict[str, optax.GradientTransformation],
    batch: dict,
    *,
    seed: int,
    averaged: tuple[str, ...] = (),
) -> TrainState:
    """The state before the first step; `averaged` names the players with an EMA."""
    params, variables = objective.init(jax.random.key(seed), batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        variables=variables,
        opt_state={player: optimizers[player].init(tree) for player, tree in params.items()},
        ema={player: jax.tree.map(jnp.copy, params[player]) for player in averaged},
    )


def player_gradients(objective: Objective, params, variables, frozen, batch, *, rng, step):
    """Losses, each player's gradient of its own loss by its own parameters, and the Aux.

    One forward pass serves all: each player pulls a one-hot cotangent back through it, and what
    it does not need of the other players' parameters is dead code to the compiler.
    """

    def losses_of(params):
        return objective(params, variables, frozen, batch, rng=rng, step=step)

    losses, pull_back, aux = jax.vjp(losses_of, params, has_aux=True)

    def gradient(player):
        seed = {name: jnp.float32(name == player) for name in losses}
        return pull_back(seed)[0][player]

    return losses, {player: gradient(player) for player in losses}, aux


def _accumulated(objective, params, variables, frozen, batch, *, rng, step, count):
    """The same over `count` micro-batches, one after the other: gradients and metrics are means.

    Micro-batch i takes every count-th sample, which leaves the batch's sharding as it is.
    Statistics (BatchNorm, codebook usage) advance once a micro-batch.
    """
    micro = jax.tree.map(lambda x: rearrange(x, "(b count) ... -> count b ...", count=count), batch)

    def gradients(variables, index):
        part = jax.tree.map(lambda x: x[index], micro)
        key = jax.random.fold_in(rng, index)
        return player_gradients(objective, params, variables, frozen, part, rng=key, step=step)

    def body(carry, index):
        losses, grads, aux = gradients(carry[2].variables, index)
        mean = jax.tree.map(
            lambda total, new: total + new / count,
            (carry[0], carry[1], carry[2].metrics),
            (losses, grads, aux.metrics),
        )
        return (mean[0], mean[1], aux._replace(metrics=mean[2])), None

    shapes = jax.eval_shape(gradients, variables, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = (zeros[0], zeros[1], zeros[2]._replace(variables=variables))
    return jax.lax.scan(body, start, jnp.arange(count))[0]


def _average(ema: Tree, params: Tree, decay: float, step: jax.Array) -> Tree:
    """EMA whose decay warms up as (1 + step) / (10 + step), so that it forgets the start."""
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema, step_size=1.0 - decay)


def make_train_step(
    objective: Objective,
    optimizers: dict[str, optax.GradientTransformation],
    *,
    seed: int | jax.Array,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    learning_rates: Mapping[str, Callable[[Tree], jax.Array]] | None = None,
) -> Callable[[TrainState, Tree, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step(state, frozen, batch) -> (state, metrics)`, pure, not yet jitted.

    Args:
      objective: see `Objective`.
      optimizers: one per player.
      seed: randomness of step n is `fold_in(key(seed), n)`.
      ema_decay: of the players in `state.ema`.
      accumulate: number of micro-batches that a batch is cut into.
      learning_rates: gives a player's learning rate from the state of its optimizer.

    Returned metrics hold every loss as `loss/PLAYER`, every global gradient norm before clipping
    as `grad_norm/PLAYER`, every rate as `learning_rate/PLAYER`, and the objective's own. Where one
    of them is not finite, the step changes nothing but its number.
    """

    def train_step(state, frozen, batch):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        args = (objective, state.params, state.variables, frozen, batch)
        if accumulate == 1:
            losses, grads, aux = player_gradients(*args, rng=rng, step=state.step)
        else:
            losses, grads, aux = _accumulated(*args, rng=rng, step=state.step, count=accumulate)

        params, opt_state = {}, {}
        for player, grad in grads.items():
            updates, opt_state[player] = optimizers[player].update(
                grad, state.opt_state[player], state.params[player]
            )
            params[player] = optax.apply_updates(state.params[player], updates)
        params = objective.post_update(params, aux.update)
        ema = {
            player: _average(tree, params[player], ema_decay, state.step)
            for player, tree in state.ema.items()
        }
        metrics = dict(aux.metrics)
        metrics |= {f"loss/{player}": loss for player, loss in losses.items()}
        metrics |= {f"grad_norm/{name}": optax.tree.norm(grad) for name, grad in grads.items()}
        rates = (learning_rates or {}).items()
        metrics |= {f"learning_rate/{name}": rate(state.opt_state[name]) for name, rate in rates}
        new_state = state.replace(
            params=params, variables=aux.variables, opt_state=opt_state, ema=ema
        )
        is_finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(metrics)]).all()
        new_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new_state, state)
        return new_state.replace(step=state.step + 1), metrics

    return train_step
