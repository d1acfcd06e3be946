"""The train state of a config: its shapes and places, how it begins, and what changes it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from vqlab.inference import read
from vqlab.runs.parts import build_learning_rates, build_objective, build_optimizers
from vqlab.runs.workdir import read_trained
from vqlab.training import sharding
from vqlab.training.step import Objective, TrainState, init_state, make_train_step

Config = ml_collections.ConfigDict


def _initializer(config: Config, objective: Objective, optimizers: Mapping) -> Callable:
    """A function that makes the state before the first step."""
    side = config.image_size
    batch = {"images": jnp.zeros((1, side, side, 3))}
    averaged = (objective.players[0],) if config.ema_decay else ()
    return functools.partial(
        init_state, objective, optimizers, batch, seed=config.seed, averaged=averaged
    )


def state_shapes(config: Config) -> dict[str, tuple]:
    """(shape, dtype) of every array of the train state by its path; no file is read."""
    objective = build_objective(config)
    optimizers = build_optimizers(config, objective.players)
    abstract = jax.eval_shape(_initializer(config, objective, optimizers))
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract)
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


def place_state(
    config: Config, objective: Objective, optimizers: Mapping, mesh: Mesh
) -> tuple[TrainState, Callable[[], TrainState]]:
    """(shapes of the state with their places on the mesh, a function that makes it there)."""
    init = _initializer(config, objective, optimizers)
    abstract = jax.eval_shape(init)
    places = sharding.tree_sharding(abstract, mesh, config.sharding)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        places,
    )
    # Runs once: on a CPU the compiler's effort costs ten times what it saves.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return abstract, jax.jit(
        init, out_shardings=places, compiler_options=options if on_cpu else None
    )


class SeededStep:
    """A jitted train step, `(state, frozen, batch) -> (state, metrics)`.

    The seed is an argument of the program, so that a run with another one compiles nothing anew
    where compiled programs are kept.
    """

    def __init__(self, jitted: jax.stages.Wrapped, seed: int):
        self._jitted, self._seed = jitted, np.uint32(seed)

    def __call__(self, state, frozen, batch):
        return self._jitted(self._seed, state, frozen, batch)

    def trace(self, state, frozen, batch) -> jax.stages.Traced:
        """See `jax.jit`."""
        return self._jitted.trace(self._seed, state, frozen, batch)

    def lower(self, state, frozen, batch) -> jax.stages.Lowered:
        """See `jax.jit`."""
        return self._jitted.lower(self._seed, state, frozen, batch)


def build_train_step(
    config: Config, objective: Objective, optimizers: Mapping, abstract: TrainState, mesh: Mesh
) -> SeededStep:
    """The jitted step, which takes and gives the state in the places of `abstract`."""

    def seeded(seed, state, frozen, batch):
        step = make_train_step(
            objective,
            optimizers,
            seed=seed,
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
            learning_rates=build_learning_rates(config, objective.players),
        )
        return step(state, frozen, batch)

    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    replicated = sharding.replicated(mesh)
    jitted = jax.jit(
        seeded,
        in_shardings=(replicated, places, replicated, sharding.batch_sharding(mesh)),
        out_shardings=(places, replicated),
        donate_argnums=1,
    )
    return SeededStep(jitted, config.seed)


def evaluated_variables(state: TrainState, player: str) -> dict[str, Any]:
    """Variables of the player that is evaluated and exported, with averaged parameters if any."""
    params = state.ema.get(player, state.params[player])
    return {"params": params, **state.variables[player]}


def given_variables(
    config: Config, network: Any, abstract: TrainState, player: str
) -> dict[str, Any] | None:
    """Variables of the network in `config.init_from`, on the host, or None.

    What is trained here and was a frozen part of the network there, under the same name, begins as
    that part: all of it, or those of its entries that are trained here.

    Raises:
      ValueError: no network there, one of another model than `config.model`, or none is named where
        the network cannot begin without.
    """
    if not config.init_from:
        if network.beginning:
            raise ValueError(network.beginning)
        return None
    _, given = read_trained(config.init_from)
    own = {"params": abstract.params[player], **abstract.variables[player]}
    if own["params"].keys() - given["params"].keys():
        frozen = read(config.init_from).weights.frozen
        given = {**given, "params": _thawed(own["params"], given["params"], frozen)}
    theirs, ours = (
        {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}
        for tree in (given, own)
    )
    if theirs != ours:
        raise ValueError(
            f"init_from={config.init_from} holds another model than config.model: "
            f"{_differences(theirs, ours)}"
        )
    return given


def _thawed(own: Mapping, given: Mapping, frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters, and of frozen parts what `own` has under their names and they lack."""
    parts = {
        name: {key: tree for key, tree in frozen[name]["params"].items() if key in own[name]}
        for name in own.keys() & (frozen.keys() - given.keys())
    }
    return {**given, **parts}


def _differences(theirs: Mapping[str, tuple], ours: Mapping[str, tuple]) -> str:
    """What two models have different, by the paths of their arrays; the first few of each kind."""
    shared = theirs.keys() & ours.keys()
    kinds = {
        "it lacks": ours.keys() - theirs.keys(),
        "it also has": theirs.keys() - ours.keys(),
        "of another shape are": {path for path in shared if theirs[path] != ours[path]},
    }
    return "; ".join(
        f"{kind} {', '.join(sorted(paths)[:3])}"
        + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        for kind, paths in kinds.items()
        if paths
    )


def with_variables(state: TrainState, player: str, given: Mapping[str, Any]) -> TrainState:
    """The fresh state with another network, from which its average starts too."""
    own = {"params": state.params[player], **state.variables[player]}
    placed = jax.tree.map(lambda new, leaf: jax.device_put(new, leaf.sharding), dict(given), own)
    params = placed.pop("params")
    return state.replace(
        params=state.params | {player: params},
        variables=state.variables | {player: placed},
        ema={player: jax.tree.map(jnp.copy, params)} if state.ema else {},
    )
