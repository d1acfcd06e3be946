"""From a config to a run: the one place where all parts meet, and where every setting is checked.

Each function takes the config and gives one part; `build_run` puts them together and, once every
setting is checked, makes or restores the state. A ValueError from here is a wrong setting, in one
line.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vqlab import data
from vqlab.evals import build_evaluators
from vqlab.evaluation.evaluators import Evaluator, run_evaluators
from vqlab.export.fingerprint import latent_fingerprints
from vqlab.inputs import check_seed
from vqlab.methods import build_frozen, build_objective
from vqlab.ops.counts import check_count
from vqlab.planning.chips import chip_of
from vqlab.planning.flops import traced_flops
from vqlab.results import pictures
from vqlab.resuming import Change, compare
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.events import EventLog
from vqlab.training.guards import Guards
from vqlab.training.loop import Run, beside_state, lacks_evaluation
from vqlab.training.objectives import TOKENIZER
from vqlab.training.optim import build_optimizer, build_schedule, current_rate
from vqlab.training.profiling import Profiler, ProfileWindow
from vqlab.training.speed import Speedometer
from vqlab.training.step import Objective, TrainState, init_state, make_train_step
from vqlab.training.stopping import StopSignal
from vqlab.training.telemetry import MetricWriter
from vqlab.workdir import load_tokenizer, open_checkpoints, save_config


def _arguments(node: ml_collections.ConfigDict, *drop: str) -> dict:
    return {name: value for name, value in node.items() if name not in drop}


def build_mesh(config: ml_collections.ConfigDict, devices=None) -> Mesh:
    """The mesh of the config over all or the given devices; checks that batches divide over it."""
    if config.accumulate < 1:
        raise ValueError(f"accumulate={config.accumulate} must be at least 1")
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    parts = sharding.batch_parts(mesh)
    if config.batch_size % (parts * config.accumulate):
        raise ValueError(
            f"batch_size={config.batch_size} does not divide over {parts} devices "
            f"x accumulate={config.accumulate}"
        )
    return mesh


def build_optimizers(config: ml_collections.ConfigDict, players: tuple[str, ...]) -> dict:
    """One optimizer for each player."""
    return {
        player: build_optimizer(num_steps=config.num_steps, **_arguments(config.optimizer[player]))
        for player in players
    }


def build_learning_rates(config: ml_collections.ConfigDict, players: tuple[str, ...]) -> dict:
    """A function for each player, from the state of its optimizer to its learning rate."""

    def rate(node):
        schedule = build_schedule(
            node.schedule,
            node.learning_rate,
            warmup_steps=node.warmup_steps,
            num_steps=config.num_steps,
        )
        return functools.partial(current_rate, schedule)

    return {player: rate(config.optimizer[player]) for player in players}


# What each source needs of config.data beside the split.
_SOURCE_ARGUMENTS = {
    "photos": (),
    "folder": ("path", "decoding"),
    "records": ("path",),
    "tfds": ("dataset", "data_dir", "decoding"),
}


def check_stored(config: ml_collections.ConfigDict, frozen: dict) -> None:
    """Checks that what is stored beside the images was made by this run's frozen networks.

    Raises:
      ValueError: the records are of another network or image size.
    """
    if config.data.name != "records" or "latent_space" not in config.model:
        return
    manifest = data.read_manifest(config.data.path, config.data.train_split)
    made = latent_fingerprints(config.model.to_dict(), frozen)
    if "moments" in manifest.fields and "moments" not in made:
        raise ValueError(
            f"records in {config.data.path} hold latents, but config.model reads images only"
        )
    data.check_records(
        manifest,
        config.data.path,
        image_size=config.image_size,
        fingerprints={name: mark for name, (mark, _) in made.items() if name in manifest.fields},
    )


def build_source(node: ml_collections.ConfigDict, split: str) -> data.Source:
    """The images of a split; `node` is config.data."""
    # Workdirs from before this setting lack it, or parts of it: what is missing is its default.
    decoding = data.Decoding(**(node.decoding if "decoding" in node else {}))
    given = node.to_dict() | {"decoding": decoding}
    chosen = {name: given[name] for name in _SOURCE_ARGUMENTS.get(node.name, ())}
    return data.build_source(node.name, split=split, **chosen)


def build_batches(
    config: ml_collections.ConfigDict, mesh: Mesh, stop: StopSignal
) -> data.TrainBatches:
    """This process's part of the endless training batches; a dead loader worker asks to `stop`."""
    part, num_parts = sharding.own_part(mesh)
    if config.data.name == "records":
        transform = data.StoredCrop(config.image_size)
    else:
        transform = data.TrainTransform(config.image_size, **_arguments(config.augment))
    return data.train_batches(
        build_source(config.data, config.data.train_split),
        transform,
        config.batch_size,
        seed=config.seed,
        process_index=part,
        process_count=num_parts,
        on_worker_death=stop.request,
        **_arguments(config.loader),
    )


def evaluated_weights(state: TrainState) -> tuple[dict, dict]:
    """(params, variables) of the tokenizer to evaluate and export: the averaged ones if any."""
    params = state.ema.get(TOKENIZER, state.params[TOKENIZER])
    return params, state.variables[TOKENIZER]


def _initializer(config: ml_collections.ConfigDict, objective, optimizers):
    """A function that makes the state before the first step."""
    side = config.image_size
    batch = {"images": jnp.zeros((1, side, side, 3))}
    averaged = (TOKENIZER,) if config.ema_decay else ()
    return functools.partial(
        init_state, objective, optimizers, batch, seed=config.seed, averaged=averaged
    )


def state_shapes(config: ml_collections.ConfigDict) -> dict[str, tuple]:
    """(shape, dtype) of every array of the train state by its path; no file is read."""
    objective = build_objective(config)
    optimizers = build_optimizers(config, objective.players)
    abstract = jax.eval_shape(_initializer(config, objective, optimizers))
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract)
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


def initial_state(config: ml_collections.ConfigDict, objective, optimizers, mesh: Mesh):
    """(abstract state with shardings, function that makes the state before the first step)."""
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


def build_train_step(config: ml_collections.ConfigDict, objective, optimizers, abstract, mesh):
    """The jitted step, which takes and gives the state in the places of `abstract`."""
    step = make_train_step(
        objective,
        optimizers,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        learning_rates=build_learning_rates(config, objective.players),
    )
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(places, sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def build_run(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path, stop: StopSignal | None = None
) -> TrainingRun:
    """Everything that a training run needs, resumed from the workdir's newest checkpoint if any.

    `stop` ends the run between two steps, or between two batches of an evaluation.

    Raises:
      ValueError: for any setting that cannot work, before anything compiles.
    """
    check_count("num_steps", config.num_steps, 0)
    check_seed(config.seed)
    workdir = require_writable(workdir)
    changed = compare(workdir, config, state_shapes)
    stop = stop or StopSignal()
    mesh = build_mesh(config)
    objective = build_objective(config)
    optimizers = build_optimizers(config, objective.players)
    batches = build_batches(config, mesh, stop)
    frozen = build_frozen(config)
    check_stored(config, frozen)
    guards, profile = Guards(**config.guards), ProfileWindow(**config.profile)
    frozen = jax.device_put(frozen, sharding.replicated(mesh))
    read_source = functools.partial(build_source, config.data)
    evaluators = build_evaluators(
        config, objective.tokenizer, mesh, read_source, stop.check, stop.request
    )
    checkpointer = open_checkpoints(config, workdir)
    abstract, make_state = initial_state(config, objective, optimizers, mesh)
    weights = None if checkpointer.steps() else initial_weights(config, abstract)
    beginning = beside_state(batches)

    def restore():
        if (newest := checkpointer.restore_newest(abstract)) is not None:
            return newest
        state = make_state()
        return state if weights is None else _with_weights(state, *weights), beginning

    state, beside = restore()
    batches.set_state(beside["data"])
    if jax.process_index() == 0:
        save_config(config, workdir)
    writer, events = _open_logs(config, workdir, int(state.step), changed)
    step = build_train_step(config, objective, optimizers, abstract, mesh)
    run = Run(
        state=state,
        train_step=step,
        frozen=frozen,
        batches=batches,
        to_device=lambda batch: sharding.global_batch(_without_labels(batch), mesh),
        evaluate=_shown_evaluation(evaluators, frozen, writer) if evaluators else None,
        restore=restore,
        checkpointer=checkpointer,
        writer=writer,
        events=events,
        stop=stop,
        speed=Speedometer(config.batch_size, *_flops(step, abstract, frozen, batches, mesh)),
        profiler=Profiler(profile, workdir),
        is_evaluation_due=lacks_evaluation(checkpointer, int(state.step), beside),
    )
    return TrainingRun(run, mesh, objective, evaluators, guards)


def _shown_evaluation(evaluators: dict[str, Evaluator], frozen: dict, writer: MetricWriter):
    """state -> the metrics of its tokenizer; TensorBoard gets the pictures."""

    def evaluate(state: TrainState) -> dict[str, float]:
        values = run_evaluators(evaluators, *evaluated_weights(state), frozen)
        if jax.process_index() == 0:
            writer.write_images(int(state.step), pictures(evaluators, values))
        return values

    return evaluate


def _open_logs(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, step: int, changed: list[Change]
) -> tuple[MetricWriter, EventLog]:
    """The logs of a run that goes on from `step`, with its config and what that changes."""
    writer, events = MetricWriter(workdir, step=step), EventLog(workdir)
    for change in changed:
        events.write(step, "setting", str(change))
    text = json.dumps(json.loads(config.to_json()), indent=2)
    writer.write_text(step, "config", f"```json\n{text}\n```")
    return writer, events


def _without_labels(batch: dict) -> dict:
    return {name: rows for name, rows in batch.items() if name != "labels"}


def _flops(step, abstract, frozen, batches, mesh: Mesh) -> tuple[float, float]:
    """(FLOPs of a step, FLOP/s of all devices); zeros where the devices' peak is not known."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    if chip is None:
        return 0.0, 0.0
    split = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for name, (shape, dtype) in batches.shapes.items()
    }
    with jax.set_mesh(mesh):
        traced = step.trace(abstract, frozen, batch)
    return traced_flops(traced).total, chip.bf16 * mesh.size


def to_host(tree):
    """NumPy arrays of a tree whose leaves may be spread over devices and hosts."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class TrainingRun(NamedTuple):
    """A run, its limits, and what is looked at after it."""

    run: Run
    mesh: Mesh
    objective: Objective
    evaluators: dict[str, Evaluator]
    guards: Guards


def initial_weights(config: ml_collections.ConfigDict, abstract: TrainState):
    """The tokenizer of `config.init_from` as [params, variables] on the host, or None.

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
    return given


def _with_weights(state: TrainState, params, variables) -> TrainState:
    """The fresh state with another tokenizer, from which its average starts too."""
    given, own = (params, variables), (state.params[TOKENIZER], state.variables[TOKENIZER])
    params, variables = jax.tree.map(
        lambda new, leaf: jax.device_put(new, leaf.sharding), given, own
    )
    return state.replace(
        params=state.params | {TOKENIZER: params},
        variables=state.variables | {TOKENIZER: variables},
        ema={TOKENIZER: jax.tree.map(jnp.copy, params)} if state.ema else {},
    )
