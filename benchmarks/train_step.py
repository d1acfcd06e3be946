"""The full train step of a published config: images per second, compiled FLOPs and bytes, memory.

    python -m benchmarks.train_step --config=configs/mgvq_f16.py [--batch-size 1 --dtype float32]
    python -m benchmarks.train_step --beside-xla      # without vqlab/ops/convolution.py too

Everything of the step counts: tokenizer, quantizer with reseeding, LPIPS, both players' gradients
and AdamW. Weights are random, LPIPS's too, which changes no cost. Images are random; loading them
is not measured. FLOPs and bytes are XLA's for the compiled program (a loop's body counts once). On
CPUs freed memory is kept, as vqlab.main does. CPU seconds are summed over threads.
"""

import argparse
import json
import math
import os
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers import cpu_model
from vqlab.convert import read_config
from vqlab.host import cli
from vqlab.host.memory import keep_freed_memory
from vqlab.models.pretrained import lpips
from vqlab.ops import convolution
from vqlab.runs import parts, train_state
from vqlab.training import sharding


def random_lpips() -> dict:
    """A VGG-16 and LPIPS heads of the right shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape, scale=0.02), jnp.float32),
        lpips.param_shapes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def load_config(args):
    """The config with the benchmark's batch size and dtype, ready for one device.

    Raises:
      ValueError: no such file, or a method that trains without a discriminator.
    """
    config = read_config(args.config).unlock()
    if "discriminator" not in config:
        raise ValueError(f"{args.config} has no discriminator; give a config of MGVQ or the KL VAE")
    config.batch_size = args.batch_size
    config.mesh.update(data=1, fsdp=1)
    config.objective.adversarial_start = 0
    for node in (config.model.encoder, config.model.decoder, config.discriminator):
        node.dtype = args.dtype
    return config


def measure(args, config) -> dict:
    """Compiles the step of the config, runs it, and returns the numbers by name."""
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)
    abstract, make_state = train_state.place_state(config, objective, optimizers, mesh)
    side = config.image_size
    images = np.random.default_rng(1).integers(0, 256, (args.batch_size, side, side, 3), np.uint8)
    batch = sharding.global_batch({"images": images}, mesh)
    frozen = {"lpips": random_lpips()} if config.objective.lpips_weight else {}
    numbers, compiled = {}, {}
    with jax.set_mesh(mesh):
        for name, least in sizes_of_products(args).items():
            convolution.MIN_POSITIONS = least
            jax.clear_caches()
            step = train_state.build_train_step(config, objective, optimizers, abstract, mesh)
            compiled[name], costs = compile_step(step, abstract, frozen, batch)
            numbers |= {name + key: value for key, value in costs.items()}
        given = np.uint32(config.seed), frozen, batch
        numbers |= time_steps(compiled, make_state(), given, args.repeats)
    return {
        "config": args.config,
        "device": jax.devices()[0].device_kind,
        "cpu": cpu_model(),
        "load": os.getloadavg()[0],
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "images_per_second": args.batch_size / numbers["seconds_per_step"],
        **numbers,
        "peak_resident_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def sizes_of_products(args) -> dict[str, float]:
    """For each way to measure, by the prefix of its numbers: from what size products are taken."""
    return {"": convolution.MIN_POSITIONS} | ({"xla_": math.inf} if args.beside_xla else {})


def compile_step(step, *inputs) -> tuple:
    """The compiled step, and what XLA says of it."""
    start = time.perf_counter(), time.process_time()
    compiled = step.lower(*inputs).compile()
    seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return compiled, {
        "compile_seconds": seconds,
        "compile_cpu_seconds": cpu_seconds,
        "gflops_per_step": cost["flops"] / 1e9,
        "gigabytes_accessed_per_step": cost["bytes accessed"] / 1e9,
        "argument_gigabytes": memory.argument_size_in_bytes / 1e9,
        "temporary_gigabytes": memory.temp_size_in_bytes / 1e9,
    }


def time_steps(compiled: dict, state, given: tuple, repeats: int) -> dict:
    """Medians of the ways' steps, which take turns; the first ones warm up."""
    seed, frozen, batch = given
    times = {name: [] for name in compiled}
    for _ in range(repeats + 1):
        for name, step in compiled.items():
            start = time.perf_counter(), time.process_time()
            state, metrics = step(seed, state, frozen, batch)
            jax.block_until_ready((state, metrics))
            seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            times[name].append((seconds, cpu_seconds))
    numbers = {}
    for name, pairs in times.items():
        seconds, cpu_seconds = map(statistics.median, zip(*pairs[1:], strict=True))
        numbers |= {f"{name}seconds_per_step": seconds, f"{name}cpu_seconds_per_step": cpu_seconds}
    return numbers


def main() -> None:
    """Prints one number a line, or all of them as one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="configs/mgvq_f16.py", help="FILE.py[:argument]")
    parser.add_argument("--batch-size", type=int, default=1, help="images a step")
    parser.add_argument("--dtype", default="float32", help="activations: float32 or bfloat16")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps; the median counts")
    parser.add_argument(
        "--beside-xla",
        action="store_true",
        help="also the step with XLA's kernel gradients of all convolutions, in turns: xla_...",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    with cli.exit_on_error():
        config = load_config(args)
    result = measure(args, config)
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:28} {shown}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
