"""Semanticist on CPU: training step against plain PyTorch, compile time, and sampling.

    python -m benchmarks.semanticist [--parts step,compile,sampling --size L] [--json]

- step: forward and backward of ViT-B/16 and DiT-SIZE/2 in float32 with given 16x16x16 latents,
  nested masks and drop path on, no REPA, no optimizer. The baseline, "torch eager", is the same
  step in benchmarks/semanticist_torch.py, which is ours. vqlab's side keeps freed memory, as
  vqlab.main does on CPUs; PyTorch's is as it comes. Both have taken nine steps before. Of the
  released code a ViT-B + DiT-L step with batch 2 was measured on another 2-core machine: 9.6 s
  (10.2 s with REPA), peak 5.7 GB.
- compile: how long XLA takes for the step with DiT-XL.
- sampling: seconds an image with DiT-SIZE, and the CPU time of the same sampler around a function
  that costs nothing, as a share of it.

FLOPs are those of all matrix products of the step, two for each multiplication and addition, a
loop's body counted as often as it runs (XLA's own count has it once). Each part, and each side of
the step, lives in a process of its own, bound to `--threads` CPUs; the two sides take turns, so
that other work on the machine slows both. CPU seconds are summed over threads.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import platform
import resource
import statistics
import sys
import time

from benchmarks import workers

PARTS = ("step", "compile", "sampling")
SIZES = ("S", "B", "L", "XL")
WARM_UP = 8  # steps until memory that is kept has all it will need
OFFICIAL = {"L": 9.6}  # seconds for a batch of 2, see above


def vqlab_side(args) -> tuple:
    """A function that runs one compiled step, and facts about it."""
    import jax
    import jax.numpy as jnp

    from benchmarks import semanticist_step as ours
    from vqlab.host.memory import keep_freed_memory
    from vqlab.planning.flops import traced_flops

    keep_freed_memory()  # as training on CPUs does
    model = ours.build_model(args.size)
    shapes = ours.abstract_variables(model)
    inputs = ours.step_inputs(model, args.batch_size)
    constants = {name: tree for name, tree in shapes.items() if name != "params"}
    step = ours.training_step(model)
    traced = jax.jit(step).trace(shapes["params"], constants, *inputs)
    start = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    variables = ours.random_variables(shapes)
    params = variables.pop("params")
    images, latents = (jax.random.normal(jax.random.key(1), x.shape) for x in inputs[:2])
    images = jnp.clip(images, -1, 1)
    state = [jnp.int32(0)]

    def run():
        jax.block_until_ready(compiled(params, variables, images, latents, state[0]))
        state[0] = state[0] + 1

    facts = {
        "gflops_per_step": traced_flops(traced).total / 1e9,
        "compile_seconds": seconds,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "temporary_gigabytes": compiled.memory_analysis().temp_size_in_bytes / 1e9,
    }
    return run, facts


def torch_side(args) -> tuple:
    """A function that runs one eager step, and nothing to say about it."""
    import torch

    from benchmarks.semanticist_torch import training_step as torch_step
    from configs._semanticist import DECODERS

    torch.set_num_threads(args.threads)
    return torch_step(*DECODERS[args.size], args.batch_size), {}


def compile_side(args) -> dict:
    """Seconds to trace and to compile the step with DiT-XL; nothing runs."""
    import jax

    from benchmarks import semanticist_step as ours

    model = ours.build_model("XL")
    shapes = ours.abstract_variables(model)
    constants = {name: tree for name, tree in shapes.items() if name != "params"}
    start = time.perf_counter()
    lowered = jax.jit(ours.training_step(model)).lower(
        shapes["params"], constants, *ours.step_inputs(model, args.batch_size)
    )
    traced = time.perf_counter()
    lowered.compile()
    return {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}


def sampling_side(args) -> list[dict]:
    """For each number of steps: seconds an image, and the share outside the denoiser."""
    import jax
    import jax.numpy as jnp

    from benchmarks import semanticist_step as ours
    from vqlab.models.concept_decoding import concept_denoiser

    model = ours.build_model(args.size)
    variables = ours.random_variables(ours.abstract_variables(model))
    key = jax.random.key(0)
    noise = jax.random.normal(key, (1, *model.latent_shape))
    concepts = jax.random.normal(key, (1, model.num_concepts, model.concept_dim))

    def sample(variables, noise, num_steps):
        denoise = concept_denoiser(model, variables, concepts)
        return model.process.sample(denoise, noise, key=key, num_steps=num_steps)

    def sample_without_network(variables, noise, num_steps):
        return model.process.sample(
            lambda x_t, t: jnp.concatenate([x_t, x_t], axis=-1), noise, key=key, num_steps=num_steps
        )

    results = []
    for num_steps in args.sampling_steps:
        times = []
        for function in (sample, sample_without_network):
            compiled = (
                jax.jit(function, static_argnames="num_steps")
                .lower(variables, noise, num_steps=num_steps)
                .compile()
            )
            call = functools.partial(lambda f: jax.block_until_ready(f(variables, noise)), compiled)
            call()
            times.append([timed_call(call) for _ in range(args.repeats)])
        seconds, cpu_seconds = map(statistics.median, zip(*times[0], strict=True))
        outside = statistics.median(cpu for _, cpu in times[1])
        results.append(
            {
                "num_steps": num_steps,
                "seconds_per_image": seconds,
                "share_outside_denoiser": outside / cpu_seconds,
            }
        )
    return results


def timed_call(function) -> tuple[float, float]:
    """(seconds, CPU seconds) of one call."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def work(args) -> None:
    """The process of one part or side. A side of the step then times a pass for every line."""
    if args.side in ("compile", "sampling"):
        part = {"compile": compile_side, "sampling": sampling_side}[args.side]
        print(json.dumps(part(args)), flush=True)
        return
    run, facts = {"vqlab": vqlab_side, "torch": torch_side}[args.side](args)
    facts["additional_mb"] = workers.additional_peak_mb(run)
    for _ in range(WARM_UP):
        run()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        timed = timed_call(run)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(json.dumps([*timed, peak]), flush=True)


def measure_step(args) -> dict:
    """Both sides of the training step."""
    sides = ("torch", "vqlab")
    started, facts, peaks = {}, {}, {}
    times: dict[str, list] = {side: [] for side in sides}
    for side in sides:  # one after the other, so that neither disturbs the other's memory
        started[side] = workers.start_worker("benchmarks.semanticist", side, args.threads)
        facts[side] = workers.answer(started[side], side)
    for _ in range(args.repeats):
        for side, worker in started.items():
            time.sleep(0.3)  # PyTorch's threads spin for a while after their work
            print("go", file=worker.stdin, flush=True)
            *timed, peaks[side] = workers.answer(worker, side)
            times[side].append(timed)
    for worker in started.values():
        worker.stdin.close()
        worker.wait()
    result = {}
    for side in sides:
        seconds, cpu_seconds = map(statistics.median, zip(*times[side], strict=True))
        result[f"{side}_seconds"], result[f"{side}_cpu_seconds"] = seconds, cpu_seconds
        result[f"{side}_images_per_second"] = args.batch_size / seconds
        result[f"{side}_additional_mb"] = facts[side].pop("additional_mb")
        result[f"{side}_peak_resident_mb"] = peaks[side]
    result["speedup"] = result["torch_seconds"] / result["vqlab_seconds"]
    result["baseline"] = "torch eager"
    result["official_seconds_elsewhere"] = OFFICIAL.get(args.size) if args.batch_size == 2 else None
    return result | facts["vqlab"]


def measure_part(part: str, args):
    """The answer of a part's only process."""
    if part == "step":
        return measure_step(args)
    worker = workers.start_worker("benchmarks.semanticist", part, args.threads)
    result = workers.answer(worker, part)
    worker.wait()
    return result


def measure(args) -> dict:
    """Everything that the table and the JSON line hold."""
    versions = ("jax", "jaxlib", "flax", "torch") if "step" in args.parts else ("jax", "jaxlib")
    return {
        **{part: measure_part(part, args) for part in args.parts},
        "size": args.size,
        "batch_size": args.batch_size,
        "dtype": "float32",
        "repeats": args.repeats,
        "threads": args.threads,
        "device": "cpu",
        "cpu": workers.cpu_model(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in versions},
    }


def print_table(result: dict) -> None:
    """The result for people."""
    print(f"{result['threads']} threads on {result['cpu']}, jax {result['jax']}, float32\n")
    if "step" in result:
        step, size, batch = result["step"], result["size"], result["batch_size"]
        print(f"training step, ViT-B/16 + DiT-{size}/2, batch {batch}")
        print(
            f"{'':14}{'seconds (median)':>18}{'CPU s':>7}"
            f"{'images/s':>10}{'additional MB':>15}{'peak MB':>9}"
        )
        for side, label in (("torch", "torch eager"), ("vqlab", "vqlab")):
            values = [
                step[f"{side}_{name}"]
                for name in (
                    "seconds",
                    "cpu_seconds",
                    "images_per_second",
                    "additional_mb",
                    "peak_resident_mb",
                )
            ]
            print("{:14}{:18.2f}{:7.1f}{:10.3f}{:15.0f}{:9.0f}".format(label, *values))
        print(
            f"vqlab is {step['speedup']:.2f} times as fast; {step['gflops_per_step']:.0f} GFLOP "
            f"a step, compiled in {step['compile_seconds']:.0f} s\n\n{workers.MEMORY_NOTE}\n"
        )
    if "compile" in result:
        print(
            "step with DiT-XL: traced in {trace_seconds:.1f} s, compiled in "
            "{compile_seconds:.1f} s".format(**result["compile"])
        )
    for row in result.get("sampling", []):
        print(
            f"sampling with DiT-{result['size']}, {row['num_steps']} steps: "
            f"{row['seconds_per_image']:.2f} s an image, "
            f"{100 * row['share_outside_denoiser']:.2f} % of it outside the denoiser"
        )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = workers.CommandLine("semanticist", __doc__, ("vqlab", "torch", "compile", "sampling"))
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help="comma-separated; default %(default)s")
    add("--size", default="L", choices=SIZES, help="of the DiT; default %(default)s")
    add("--sampling-steps", default="25,250", help="default %(default)s")
    parser.add_count("batch-size", 2, "of the step")
    parser.add_count("repeats", 3, "timed runs")
    args = parser.parse_args()
    args.parts = parser.choices("--parts", args.parts, PARTS)
    try:
        args.sampling_steps = [int(number) for number in args.sampling_steps.split(",")]
    except ValueError:
        parser.error(f"--sampling-steps {args.sampling_steps} must be numbers like 25,250")
    return args


def main() -> None:
    args = parse_arguments()
    if "step" in args.parts:
        workers.require_torch("benchmarks.semanticist", "leave out --parts step")
    workers.compare(args, work, measure, print_table)


if __name__ == "__main__":
    main()
