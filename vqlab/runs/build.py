"""From a config to a run: the one place where all parts meet.

Every setting is checked before anything compiles; a ValueError from here is a wrong one, in one
line.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import run_evaluators
from vqlab.models.codec import Codec, Weights
from vqlab.models.generator import Generator
from vqlab.ops.counts import check_count, check_seed
from vqlab.planning.chips import chip_of
from vqlab.planning.flops import traced_flops
from vqlab.runs.evals import build_evaluators, used_networks
from vqlab.runs.parts import (
    batch_shapes,
    build_batches,
    build_frozen,
    build_mesh,
    build_objective,
    build_optimizers,
    build_source,
    build_subject,
    check_source,
    evaluated_source,
    in_place_of_images,
)
from vqlab.runs.results import pictures
from vqlab.runs.resuming import Change, compare
from vqlab.runs.train_state import (
    build_train_step,
    evaluated_variables,
    given_variables,
    place_state,
    state_shapes,
    with_variables,
)
from vqlab.runs.whole_networks import place_nodes
from vqlab.runs.workdir import check_frozen, keep_beginning, open_checkpoints
from vqlab.training import sharding
from vqlab.training.checkpoint import require_writable
from vqlab.training.events import EventLog
from vqlab.training.guards import Guards
from vqlab.training.loop import Run, beside_state, lacks_evaluation
from vqlab.training.profiling import Profiler, ProfileWindow
from vqlab.training.speed import Speedometer
from vqlab.training.step import Objective, TrainState
from vqlab.training.stopping import StopSignal
from vqlab.training.telemetry import MetricWriter


class TrainingRun(NamedTuple):
    """A run, its limits, and what is looked at after it.

    codec: what is evaluated and exported, a `Codec` or of a second stage a `Generator`. weights:
    its own, of a state.
    """

    run: Run
    mesh: Mesh
    codec: Codec | Generator
    weights: Callable[[TrainState], Weights]
    evaluators: dict[str, Evaluator]
    guards: Guards


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
    place_nodes(config)
    changed = compare(workdir, config, state_shapes)
    stop = stop or StopSignal()
    mesh = build_mesh(config)
    objective = build_objective(config)
    codec = build_subject(config, objective)
    source = build_source(config.data, config.data.train_split, in_place_of_images(objective))
    batches = build_batches(config, source, mesh, on_worker_death=stop.request)
    frozen = build_frozen(config, objective, used_networks(config))
    check_source(config, source, objective, frozen)
    guards, profile = Guards(**config.guards), ProfileWindow(**config.profile)
    stops = stop.check, stop.request
    read_source = functools.partial(evaluated_source, config, config.model.to_dict(), frozen)
    evaluators = build_evaluators(config, codec, mesh, frozen, read_source, *stops, workdir)
    parts = {name: frozen[name] for name in objective.network.frozen_parts()}
    check_frozen(workdir, config, parts)
    frozen = jax.device_put(frozen, sharding.replicated(mesh))
    checkpointer = open_checkpoints(config, workdir)
    state, beside, step, restore = _begin(config, objective, mesh, checkpointer, batches)
    batches.set_state(beside["data"])
    keep_beginning(workdir, config, parts)
    writer, events = _open_logs(config, workdir, int(state.step), changed)
    weights = functools.partial(_weights, objective, {name: frozen[name] for name in parts})
    run = Run(
        state=state,
        train_step=step,
        frozen=frozen,
        batches=batches,
        to_device=functools.partial(_to_device, objective, mesh),
        evaluate=_evaluation(evaluators, weights, frozen, writer) if evaluators else None,
        restore=restore,
        checkpointer=checkpointer,
        writer=writer,
        events=events,
        stop=stop,
        speed=Speedometer(
            config.batch_size, *_flops(config, objective, step, state, frozen, source, mesh)
        ),
        profiler=Profiler(profile, workdir),
        is_evaluation_due=lacks_evaluation(checkpointer, int(state.step), beside),
    )
    return TrainingRun(run, mesh, codec, weights, evaluators, guards)


def _weights(objective: Objective, frozen: Mapping[str, Any], state: TrainState) -> Weights:
    """Of a state those that are evaluated and exported, with what they are used with."""
    return Weights(evaluated_variables(state, objective.players[0]), frozen)


def _begin(
    config: ml_collections.ConfigDict, objective: Objective, mesh: Mesh, checkpointer, batches
):
    """(state, what was beside it, the jitted step, a function that gives the first two again)."""
    optimizers = build_optimizers(config, objective.players)
    abstract, make_state = place_state(config, objective, optimizers, mesh)
    player = objective.players[0]
    given = None
    if not checkpointer.steps():
        given = given_variables(config, objective.network, abstract, player)
    beginning = beside_state(batches)

    def restore():
        if (newest := checkpointer.restore_newest(abstract)) is not None:
            return newest
        state = make_state()
        return state if given is None else with_variables(state, player, given), beginning

    step = build_train_step(config, objective, optimizers, abstract, mesh)
    return *restore(), step, restore


def _to_device(objective: Objective, mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What the objective takes of a host batch, over the mesh, in the stored dtypes."""
    names = {*objective.inputs, *objective.stored}
    return sharding.global_batch({name: batch[name] for name in batch if name in names}, mesh)


def _evaluation(
    evaluators: dict[str, Evaluator],
    weights: Callable[[TrainState], Weights],
    frozen: Mapping[str, Any],
    writer: MetricWriter,
) -> Callable[[TrainState], dict[str, float]]:
    """state -> the metrics of its codec; TensorBoard gets the pictures."""

    def evaluate(state: TrainState) -> dict[str, float]:
        values = run_evaluators(evaluators, weights(state), frozen)
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


def _flops(config, objective, step, state, frozen, source, mesh: Mesh) -> tuple[float, float]:
    """(FLOPs of a step, FLOP/s of all devices); zeros where the devices' peak is not known."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    if chip is None:
        return 0.0, 0.0
    split = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)
        for name, x in batch_shapes(config, objective, source.fields).items()
    }
    with jax.set_mesh(mesh):
        traced = step.trace(state, frozen, batch)
    return traced_flops(traced).total, chip.bf16 * mesh.size


def gather(tree: Any) -> Any:
    """NumPy arrays of a tree whose leaves may be spread over devices and hosts."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
