"""The full train step of a published config: images per second, compiled FLOPs and bytes, memory.

    python -m benchmarks.train_step --config=configs/mgvq_f16.py [--batch-size 1 --dtype float32]

Everything of the step counts: tokenizer, quantizer with reseeding, LPIPS, both players' gradients
and AdamW. Weights are random, LPIPS's too, which changes no cost. Images are random; loading them
is not measured. FLOPs and bytes are XLA's for the compiled program (a loop's body counts once).
"""

import argparse
import json
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers import cpu_model
from vqlab.convert import read_config
from vqlab.host import cli
from vqlab.models.pretrained import lpips
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
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    objective = parts.build_objective(config)
    optimizers = parts.build_optimizers(config, objective.players)
    abstract, make_state = train_state.place_state(config, objective, optimizers, mesh)
    step = train_state.build_train_step(config, objective, optimizers, abstract, mesh)
    side = config.image_size
    images = np.random.default_rng(1).integers(0, 256, (args.batch_size, side, side, 3), np.uint8)
    batch = sharding.global_batch({"images": images}, mesh)
    frozen = {"lpips": random_lpips()} if config.objective.lpips_weight else {}
    with jax.set_mesh(mesh):
        state = make_state()
        start = time.perf_counter()
        compiled = step.lower(state, frozen, batch).compile()
        compile_seconds = time.perf_counter() - start
        seconds = []
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            state, metrics = compiled(state, frozen, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - start)
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    median = statistics.median(seconds[1:])  # the first step also warms up
    return {
        "config": args.config,
        "device": jax.devices()[0].device_kind,
        "cpu": cpu_model(),
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "seconds_per_step": median,
        "images_per_second": args.batch_size / median,
        "compile_seconds": compile_seconds,
        "gflops_per_step": cost["flops"] / 1e9,
        "gigabytes_accessed_per_step": cost["bytes accessed"] / 1e9,
        "argument_gigabytes": memory.argument_size_in_bytes / 1e9,
        "temporary_gigabytes": memory.temp_size_in_bytes / 1e9,
        "peak_resident_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


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
