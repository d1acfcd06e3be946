"""Greedy sampling of codes by MGVQ's GPT on CPU, against plain PyTorch of the same weights.

    python -m benchmarks.generate [--size B --batch 8 --positions 256]

vqlab's side is `sample_indices`, one jitted scan with a cache of keys and values; the other side is
benchmarks/generate_torch.py, which is ours, with a static cache, in inference mode. Both are in
float32, without guidance, and choose the likeliest index everywhere; K and G are those of
configs/mgvq_f16.py. Weights are random, the same on both sides, and so must be the indices: the
share that is equal is printed (after a first index that differs, by rounding, all may). A token is
an index: `--batch` images have `--positions` times G. vqlab compiles before the first run, which is
apart. Each side lives in a process of its own, bound to `--threads` CPUs; the two take turns, so
that other work on the machine slows both. CPU seconds are summed over threads. Needs PyTorch:
pip install -r requirements-torch.txt.
"""

import argparse
import json
import math
import statistics
import sys
import time

import numpy as np

from benchmarks import workers

SIDES = ("torch", "vqlab")
CONFIG = "configs/mgvq_f16.py"
NUM_CLASSES = 1000
TINY = (64, 2, 4)  # to try the benchmark


def settings(args) -> dict:
    """The fields of `IndexTransformer`."""
    from vqlab.convert import read_config
    from vqlab.models.index_transformer import SIZES

    quantizer = read_config(CONFIG).model.quantizer
    width, depth, num_heads = {"tiny": TINY, **SIZES}[args.size]
    side = math.isqrt(args.positions)
    return {
        "grid": (side, side) if side**2 == args.positions else (1, args.positions),
        "num_groups": quantizer.num_groups,
        "codebook_size": quantizer.codebook_size,
        "latent_channels": quantizer.latent_channels,
        "num_classes": NUM_CLASSES,
        "width": width,
        "depth": depth,
        "num_heads": num_heads,
        "head_depth": 2,
    }


def inputs(fields: dict, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(codewords [G, K, D] of length 1, labels [B]), the same for both sides."""
    groups = fields["num_groups"]
    shape = groups, fields["codebook_size"], fields["latent_channels"] // groups
    rng = np.random.default_rng(1)
    codewords = rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, NUM_CLASSES, batch).astype(np.int32)
    return codewords / np.linalg.norm(codewords, axis=-1, keepdims=True), labels


def random_weights(module, fields: dict) -> dict[str, np.ndarray]:
    """Arrays by path, the same for both sides: all of them count in the result."""
    import jax
    from flax import traverse_util

    positions, groups = module.num_positions, fields["num_groups"]
    arguments = (
        np.zeros((1, positions, fields["latent_channels"]), np.float32),
        np.zeros((1, positions, groups), np.int32),
        np.zeros(1, np.int32),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng, weights = np.random.default_rng(0), {}
    for path, leaf in sorted(traverse_util.flatten_dict(shapes, sep="/").items()):
        draw = rng.standard_normal(leaf.shape, np.float32)
        kind = path.rpartition("/")[2]
        if kind == "kernel":
            draw /= math.sqrt(leaf.shape[-2])
        elif kind in ("scale", "bias"):
            draw = (kind == "scale") + np.float32(0.1) * draw
        weights[path] = draw
    return weights


def vqlab_side(args):
    """(labels -> indices, compile seconds, number of parameters)."""
    import jax
    from flax import traverse_util

    from vqlab.models.index_sampling import sample_indices
    from vqlab.models.index_transformer import IndexTransformer
    from vqlab.models.token_sampling import TokenSampling
    from vqlab.ops.codebook import select_codewords

    fields = settings(args)
    module = IndexTransformer(**fields)
    flat = random_weights(module, fields)
    variables = jax.device_put(traverse_util.unflatten_dict(flat, sep="/"))
    codewords, labels = inputs(fields, args.batch)
    keys, sampling = (
        jax.random.split(jax.random.key(0), args.batch),
        TokenSampling.of(temperature=0),
    )

    @jax.jit
    def sample(variables, codewords, labels, keys, sampling):
        def look_up(indices):
            return select_codewords(codewords, indices).reshape(len(indices), -1)

        return sample_indices(module, variables, look_up, labels, keys, sampling)

    rest = jax.device_put(codewords), labels, keys, sampling
    start = time.perf_counter()
    compiled = sample.lower(variables, *rest).compile()
    seconds = time.perf_counter() - start
    size = sum(array.size for array in flat.values())
    return lambda: np.asarray(compiled(variables, *rest)), seconds, size


def torch_side(args):
    """The same in PyTorch, which compiles nothing."""
    import torch

    from benchmarks.generate_torch import Generator, load_weights
    from vqlab.models.index_transformer import IndexTransformer
    from vqlab.nn.llama import hidden_width
    from vqlab.ops.position import rotary_table

    torch.set_num_threads(args.threads)
    fields = settings(args)
    codewords, labels = inputs(fields, args.batch)
    table = rotary_table(*fields["grid"], fields["width"] // fields["num_heads"], num_prefix=1)
    tensors = torch.from_numpy(table), torch.from_numpy(codewords)
    network = Generator(fields, *tensors, hidden_width(fields["width"]), args.batch).eval()
    load_weights(network, random_weights(IndexTransformer(**fields), fields))
    sample = torch.inference_mode()(network)
    labels = torch.from_numpy(labels)
    size = sum(parameter.numel() for parameter in network.parameters())
    return lambda: sample(labels).numpy(), 0.0, size


def timed(sample) -> tuple[np.ndarray, float, float]:
    """(indices, seconds, CPU seconds)."""
    start = time.perf_counter(), time.process_time()
    indices = sample()
    return indices, time.perf_counter() - start[0], time.process_time() - start[1]


def work(args) -> None:
    """One side's process: prints a line of its first run, then times for every request."""
    sample, compile_seconds, size = {"vqlab": vqlab_side, "torch": torch_side}[args.side](args)
    indices, first, _ = timed(sample)
    facts = {"parameters": size, "compile_seconds": compile_seconds, "first_seconds": first}
    print(json.dumps(facts | {"indices": indices.tolist()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed(sample)[1:]), flush=True)


def measure(args) -> dict:
    """Both sides in turns, and everything that the table and the JSON line hold."""
    started, facts, times = {}, {}, {side: [] for side in SIDES}
    for side in SIDES:
        started[side] = workers.start_worker("benchmarks.generate", side, args.threads)
        facts[side] = workers.answer(started[side], side)
    indices = [np.array(facts[side].pop("indices")) for side in SIDES]
    for _ in range(args.repeats):
        for side, worker in started.items():
            time.sleep(0.3)  # PyTorch's threads spin for a while after their work
            print("go", file=worker.stdin, flush=True)
            times[side].append(workers.answer(worker, side))
    for worker in started.values():
        worker.stdin.close()
        worker.wait()
    result = {f"{side}_{name}": value for side in SIDES for name, value in facts[side].items()}
    for side in SIDES:
        seconds, cpu_seconds = map(statistics.median, zip(*times[side], strict=True))
        result |= {f"{side}_seconds": seconds, f"{side}_cpu_seconds": cpu_seconds}
        result[f"{side}_tokens_per_second"] = indices[0].size / seconds
    for kind in ("seconds", "cpu_seconds"):
        result[f"{kind}_ratio"] = result[f"torch_{kind}"] / result[f"vqlab_{kind}"]
    names = ("size", "batch", "positions", "repeats", "threads")
    return {
        **result,
        "num_groups": indices[0].shape[-1],
        "equal_indices": float(np.mean(indices[0] == indices[1])),
        **{name: getattr(args, name) for name in names},
        **workers.machine_facts(),
    }


def print_table(result: dict) -> None:
    """The result for people."""
    print(
        "GPT-{size}, {batch} images of {positions} positions with {num_groups} indices, greedy, "
        "float32\n{threads} threads on {cpu}; python {python}, jax {jax}, torch {torch}; load "
        "{load:.1f}\n".format(**result)
    )
    heads = ("tokens / s", "seconds", "CPU s", "first run s", "compile s")
    print(f"{'':8}" + "".join(f"{head:>14}" for head in heads))
    names = ("tokens_per_second", "seconds", "cpu_seconds", "first_seconds", "compile_seconds")
    for side in SIDES:
        print(f"{side:8}" + "".join(f"{result[f'{side}_{name}']:>14.2f}" for name in names))
    print(
        "torch / vqlab: {seconds_ratio:.2f} in seconds, {cpu_seconds_ratio:.2f} in CPU seconds; "
        "{equal_indices:.1%} of the indices are equal".format(**result)
    )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = workers.CommandLine("generate", __doc__, SIDES)
    sizes = ("tiny", "B", "L", "XL", "XXL")
    parser.add_argument("--size", default="B", choices=sizes, help="default %(default)s")
    parser.add_count("batch", 8, "images at once")
    parser.add_count("positions", 256, "of an image")
    parser.add_count("repeats", 5, "turns; medians count")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    workers.require_torch("benchmarks.generate")
    workers.compare(args, work, measure, print_table)


if __name__ == "__main__":
    main()
