"""From a config to a run: the one place where all parts meet, and where every setting is checked.

Each function takes the config and gives one part; `build_run` puts them together and, once every
setting is checked, makes or restores the state. A ValueError from here is a wrong setting, in one
line.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vqlab import data, models
from vqlab.evaluation.evaluators import ReconstructionEvaluator
from vqlab.export.lpips_weights import read_lpips
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.loop import Run
from vqlab.training.objectives import TOKENIZER, TokenizerObjective
from vqlab.training.optim import build_optimizer
from vqlab.training.step import TrainState, init_state, make_train_step
from vqlab.training.telemetry import MetricWriter
from vqlab.workdir import load_tokenizer, open_checkpoints, save_config

EVALUATORS = {"reconstruction": ReconstructionEvaluator}


def _arguments(node: ml_collections.ConfigDict, *drop: str) -> dict:
    return {name: value for name, value in node.items() if name not in drop}


def build_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """The mesh of the config; checks that batches divide over it."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    parts = mesh.size * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide over {mesh.size} devices "
            f"x accumulate={config.accumulate}"
        )
    return mesh


def build_objective(config: ml_collections.ConfigDict) -> TokenizerObjective:
    """The model and what it is trained for."""
    tokenizer = models.build(config.model)
    if config.image_size % tokenizer.stride:
        raise ValueError(
            f"image_size={config.image_size} is no multiple of the model's stride "
            f"{tokenizer.stride}"
        )
    discriminator = None
    if config.objective.adversarial_weight:
        discriminator = models.build(config.discriminator)
    return TokenizerObjective(
        tokenizer=tokenizer,
        discriminator=discriminator,
        **_arguments(config.objective, "lpips_weights"),
    )


def build_frozen(config: ml_collections.ConfigDict) -> dict:
    """Networks that are never trained: LPIPS, where its weights are given.

    Raises:
      ValueError: when LPIPS has a weight in the loss and no file.
    """
    if config.objective.lpips_weights:
        return {"lpips": read_lpips(config.objective.lpips_weights)}
    if config.objective.lpips_weight:
        raise ValueError(
            f"objective.lpips_weight={config.objective.lpips_weight} needs the weights of VGG-16 "
            "and of LPIPS: set --config.objective.lpips_weights=vgg16.pth,vgg.pth "
            "(torchvision's vgg16 and the lpips package's vgg.pth), or set the weight to 0"
        )
    return {}


def build_optimizers(config: ml_collections.ConfigDict, players: tuple[str, ...]) -> dict:
    """One optimizer for each player."""
    return {
        player: build_optimizer(num_steps=config.num_steps, **_arguments(config.optimizer[player]))
        for player in players
    }


# What each source needs of config.data beside the split.
_SOURCE_ARGUMENTS = {"photos": (), "folder": ("path",), "tfds": ("dataset", "data_dir")}


def build_source(node: ml_collections.ConfigDict, split: str) -> data.Source:
    """The images of a split; `node` is config.data."""
    chosen = {name: node[name] for name in _SOURCE_ARGUMENTS.get(node.name, ())}
    return data.build_source(node.name, split=split, **chosen)


def build_batches(config: ml_collections.ConfigDict) -> data.TrainBatches:
    """This process's part of the endless training batches."""
    return data.train_batches(
        build_source(config.data, config.data.train_split),
        data.TrainTransform(config.image_size, **_arguments(config.augment)),
        config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **_arguments(config.loader),
    )


def build_evaluator(
    config: ml_collections.ConfigDict,
    name: str,
    tokenizer,
    *,
    to_device: Callable = lambda batch: batch,
    num_devices: int = 1,
) -> ReconstructionEvaluator:
    """The evaluator `config.evals.<name>`; `to_device` spreads its batches over `num_devices`."""
    node = config.evals[name]
    if node.name not in EVALUATORS:
        raise ValueError(f"unknown evaluator {node.name!r}; known: {', '.join(EVALUATORS)}")
    if node.image_size % tokenizer.stride:
        raise ValueError(
            f"evals.{name}.image_size={node.image_size} is no multiple of the model's stride "
            f"{tokenizer.stride}"
        )
    if node.batch_size % num_devices:
        raise ValueError(
            f"evals.{name}.batch_size={node.batch_size} does not divide over {num_devices} devices"
        )
    source = build_source(config.data, config.data.validation_split)
    if node.tiles:
        source = data.TileSource(source, node.image_size)
    batches = data.eval_batches(
        source,
        data.CenterCrop(node.image_size),
        node.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        limit=node.limit or None,
        **_arguments(config.loader),
    )

    def make_batches():
        return (to_device({key: batch[key] for key in ("images", "mask")}) for batch in batches)

    return EVALUATORS[node.name](
        tokenizer,
        make_batches,
        num_images_kept=node.num_images_kept,
        lpips=bool(config.objective.lpips_weights),
    )


def evaluated_weights(state: TrainState) -> tuple[dict, dict]:
    """(params, variables) of the tokenizer to evaluate and export: the averaged ones if any."""
    params = state.ema.get(TOKENIZER, state.params[TOKENIZER])
    return params, state.variables[TOKENIZER]


def initial_state(config: ml_collections.ConfigDict, objective, optimizers, mesh: Mesh):
    """(abstract state with shardings, function that makes the state before the first step)."""
    side = config.image_size
    batch = {"images": jnp.zeros((1, side, side, 3))}
    averaged = (TOKENIZER,) if config.ema_decay else ()
    init = functools.partial(
        init_state, objective, optimizers, batch, seed=config.seed, averaged=averaged
    )
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


def build_train_step(config: ml_collections.ConfigDict, objective, optimizers, abstract, mesh):
    """The jitted step, which takes and gives the state in the places of `abstract`."""
    step = make_train_step(
        objective,
        optimizers,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
    )
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(places, sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def build_run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> TrainingRun:
    """Everything that a training run needs, resumed from the workdir's newest checkpoint if any.

    Raises:
      ValueError: for any setting that cannot work, before anything compiles.
    """
    workdir = require_writable(workdir)
    mesh = build_mesh(config)
    objective = build_objective(config)
    optimizers = build_optimizers(config, objective.players)
    batches = build_batches(config)
    frozen = jax.device_put(build_frozen(config), sharding.replicated(mesh))

    def to_device(batch):
        return sharding.global_batch(batch, mesh)

    evaluators = {
        name: build_evaluator(
            config, name, objective.tokenizer, to_device=to_device, num_devices=mesh.size
        )
        for name in config.evals
    }
    checkpointer = open_checkpoints(config, workdir)
    abstract, make_state = initial_state(config, objective, optimizers, mesh)
    if checkpointer.steps():
        state, position = checkpointer.restore(abstract)
        batches.set_state(position)
    else:
        weights = initial_weights(config, abstract)
        state = make_state()
        if weights is not None:
            state = _with_weights(state, *weights)
    save_config(config, workdir)

    def evaluate(state):
        return run_evaluators(evaluators, *evaluated_weights(state), frozen)

    run = Run(
        state=state,
        train_step=build_train_step(config, objective, optimizers, abstract, mesh),
        frozen=frozen,
        batches=batches,
        to_device=lambda batch: to_device({"images": batch["images"]}),
        evaluate=evaluate if evaluators else None,
        checkpointer=checkpointer,
        writer=MetricWriter(workdir, step=int(state.step)),
        batch_size=config.batch_size,
    )
    return TrainingRun(run, mesh, objective, evaluators)


def to_host(tree):
    """NumPy arrays of a tree whose leaves may be spread over devices and hosts."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class TrainingRun(NamedTuple):
    """A run and what is looked at after it."""

    run: Run
    mesh: Mesh
    objective: TokenizerObjective
    evaluators: dict[str, ReconstructionEvaluator]


def initial_weights(config: ml_collections.ConfigDict, abstract: TrainState):
    """The tokenizer of `config.init_from` as [params, variables] in the state's places, or None.

    Raises:
      ValueError: no tokenizer there, or one of another model than `config.model`.
    """
    if not config.init_from:
        return None
    _, *given = load_tokenizer(config.init_from)
    own = [abstract.params[TOKENIZER], abstract.variables[TOKENIZER]]
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (given, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"init_from={config.init_from} holds another model than config.model")
    return jax.tree.map(lambda new, leaf: jax.device_put(new, leaf.sharding), given, own)


def _with_weights(state: TrainState, params, variables) -> TrainState:
    """The fresh state with another tokenizer, from which its average starts too."""
    return state.replace(
        params=state.params | {TOKENIZER: params},
        variables=state.variables | {TOKENIZER: variables},
        ema={TOKENIZER: jax.tree.map(jnp.copy, params)} if state.ema else {},
    )


def run_evaluators(evaluators: dict, params, variables, frozen: dict) -> dict[str, float]:
    """The metrics of all evaluators for one tokenizer's weights, as `EVALUATOR/METRIC`."""
    return {
        f"{name}/{metric}": value
        for name, evaluator in evaluators.items()
        for metric, value in evaluator.run(params, variables, frozen).items()
    }
