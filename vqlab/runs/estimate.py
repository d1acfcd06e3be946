"""What a config costs on a topology: compiles its real train step there, and counts.

Nothing runs and no weights are read: state, frozen networks and batch are shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from vqlab.export.frozen import network_shapes
from vqlab.planning import hlo
from vqlab.planning.collectives import by_kind, collectives
from vqlab.planning.compiling import Compiled, OutOfMemory, largest_batch
from vqlab.planning.flops import Flops, traced_flops, traced_traffic
from vqlab.planning.roofline import roofline
from vqlab.planning.topologies import Topology
from vqlab.planning.traffic import memory_traffic
from vqlab.runs import parts, train_state
from vqlab.runs.whole_networks import place_nodes
from vqlab.training import sharding

Progress = Callable[[str], None]


class Program(NamedTuple):
    """A train step with what it is called with, all as shapes in their places."""

    traced: jax.stages.Traced
    mesh: Mesh
    state: Any
    frozen: Any
    batch: dict[str, jax.ShapeDtypeStruct]


def trace_step(
    config: ml_collections.ConfigDict, devices: list, *, precomputed: bool = False
) -> Program:
    """The config's train step over `devices`.

    Args:
      config: of a run.
      devices: of any platform; they need not be there.
      precomputed: the batch brings what frozen networks of a Semanticist would compute.

    Raises:
      ValueError: for a setting that cannot work.
    """
    place_nodes(config)
    mesh = parts.build_mesh(config, devices)
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)
    abstract, _ = train_state.place_state(config, objective, optimizers, mesh)
    step = train_state.build_train_step(config, objective, optimizers, abstract, mesh)
    frozen = network_shapes(objective.needs, objective.network.frozen_parts())
    fields = {}
    if precomputed:
        if not objective.stored:
            raise ValueError("nothing is precomputed for this config: it has no frozen autoencoder")
        fields = parts.stored_fields(config, objective, frozen, dtype="float32")
    batch = parts.batch_shapes(config, objective, fields)
    frozen = _placed(frozen, sharding.replicated(mesh))
    batch = _placed(batch, sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        return Program(step.trace(abstract, frozen, batch), mesh, abstract, frozen, batch)


def _placed(tree: Any, place: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def estimate(
    config: ml_collections.ConfigDict,
    topology: Topology,
    devices: list,
    compile_program: Callable[[jax.stages.Lowered], Compiled | OutOfMemory],
    *,
    is_own_compiler: bool = True,
    precomputed: bool = False,
    verify: bool = False,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Everything about one step, as numbers that JSON can hold; bytes, seconds, FLOPs.

    Args:
      config: of a run.
      topology: whose rates count.
      devices: to compile for, as many as the topology has.
      precomputed: see `trace_step`.
      verify: also compile the largest batch.
      compile_program: what compiles a lowered step.
      progress: is told what is being done.

    Raises:
      ValueError: for a setting that cannot work.
    """

    def compiled(config):
        progress("tracing")
        program = trace_step(config, devices, precomputed=precomputed)
        progress(f"compiling {config.batch_size} images a step")
        with jax.set_mesh(program.mesh):
            return program, compile_program(program.traced.lower())

    program, result = compiled(config)
    least = None
    if not is_own_compiler:
        progress("tracing the step of one device")
        least = _least_traffic(program, config, precomputed)
    answer = _facts(program, result, config, topology) | {"precomputed": precomputed}
    answer |= _times(program, result, config, topology, least)
    answer["largest_batch_per_device"] = _largest_batch(program, config, answer, topology)
    if verify and answer["largest_batch_per_device"]["images"]:
        answer["largest_batch_per_device"] = _verified(config, topology, answer, compiled)
    return answer


def _facts(program: Program, result, config, topology: Topology) -> dict[str, Any]:
    return {
        "topology": topology.name,
        "chip": topology.chip.name,
        "num_devices": topology.num_devices,
        "mesh": dict(program.mesh.shape),
        "parameters": _parameters(program),
        "batch_size": config.batch_size,
        "batch_per_device": config.batch_size // sharding.batch_parts(program.mesh),
        "fits": _fits(result, topology),
        "memory": _memory(program, result, topology),
        "compile_seconds": result.seconds,
    }


def _parameters(program: Program) -> dict[str, int]:
    """Of each player, and of the frozen networks together."""
    trees = dict(program.state.params) | {"frozen": program.frozen}
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in trees.items()}


def _least_traffic(program: Program, config, precomputed: bool) -> float:
    """Bytes of one device whose products move their operands, and all else happens on the way."""
    alone = config.copy_and_resolve_references().unlock()
    alone.batch_size //= sharding.batch_parts(program.mesh)
    alone.mesh.update(dict.fromkeys(alone.mesh, 1))
    step = trace_step(alone, [program.mesh.devices.flat[0]], precomputed=precomputed)
    moved = traced_traffic(step.traced) / program.mesh.shape.get("tensor", 1)
    return moved + 2 * device_bytes(program.state)  # read and written


def _fits(result: Compiled | OutOfMemory, topology: Topology) -> bool:
    return isinstance(result, Compiled) and result.memory.peak <= topology.chip.memory


def _memory(program: Program, result: Compiled | OutOfMemory, topology: Topology):
    """Bytes of a device; what the compiler did not say is None."""
    if isinstance(result, Compiled):
        return result.memory._asdict() | {"available": topology.chip.memory}
    arguments = device_bytes((program.state, program.frozen, program.batch))
    needed = result.needed
    return {
        "arguments": arguments,
        "outputs": None,
        "temporaries": needed,
        "peak": None if needed is None else arguments + needed,
        "available": result.available or topology.chip.memory,
    }


def device_bytes(tree) -> float:
    """Bytes that one device holds of a tree of sharded shapes."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _times(program: Program, result, config, topology: Topology, traffic: float | None):
    """Work, the roofline and what follows from it; None where nothing was compiled.

    `traffic` is in bytes of a device, None for that of the compiled program.
    """
    count = topology.num_devices
    flops = traced_flops(program.traced)
    answer = {"flops": flops.total, "flops_per_device": flops.total / count}
    if isinstance(result, OutOfMemory):
        names = ("bytes_per_device", "collectives", "roofline_seconds", "step_seconds")
        return answer | dict.fromkeys((*names, "bound_by", "images_per_second", "run"))
    compiled = hlo.parse(result.text)
    traffic = memory_traffic(compiled) if traffic is None else traffic
    sent = collectives(compiled, count)
    times = roofline(topology.chip, Flops(*(x / count for x in flops)), traffic, sent)
    hours = config.num_steps * times.seconds / 3600
    return answer | {
        "bytes_per_device": traffic,
        "collectives": by_kind(sent),
        "roofline_seconds": times._asdict(),
        "step_seconds": times.seconds,
        "bound_by": times.bound_by,
        "images_per_second": config.batch_size / times.seconds,
        "run": {
            "steps": config.num_steps,
            "hours": hours,
            "chip_hours": hours * count,
        },
    }


def epoch(answer: dict[str, Any], images: int | None) -> dict[str, float] | None:
    """Hours and chip-hours for so many images; None where these or the speed are not known."""
    if not images or not answer["images_per_second"]:
        return None
    hours = images / answer["images_per_second"] / 3600
    return {"images": images, "hours": hours, "chip_hours": hours * answer["num_devices"]}


def _largest_batch(program: Program, config, answer, topology: Topology) -> dict[str, Any]:
    memory, images = answer["memory"], None
    if memory["peak"] is not None:
        images = largest_batch(
            memory["peak"],
            device_bytes((program.state, program.frozen)),
            answer["batch_per_device"],
            memory["available"],
            multiple=config.accumulate,
        )
    return {"images": images, "how": "estimated"}


def _verified(config, topology: Topology, answer, compiled) -> dict[str, Any]:
    """The largest batch, compiled: the estimate, or a smaller one that the compiler takes."""
    images, own = answer["largest_batch_per_device"]["images"], answer["batch_per_device"]
    parts = config.batch_size // own
    while images and not (answer["fits"] and images == own):
        changed = config.copy_and_resolve_references().unlock()
        changed.batch_size = images * parts
        if _fits(compiled(changed)[1], topology):
            break
        smaller = images - max(images // 10, 1)
        images = smaller // config.accumulate * config.accumulate
    return {"images": images, "how": "compiled"}
