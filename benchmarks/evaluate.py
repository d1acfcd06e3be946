"""What measuring costs on CPU: Inception beside PyTorch, and FID's root beside scipy's.

    python -m benchmarks.evaluate [--parts inception,frechet] [--json]

- inception: pooled features of batches of 299-pixel images in float32 with seeded weights. The
  baseline is the same network in eager PyTorch (benchmarks/inception_torch.py, ours), with
  convolutions and BatchNorms apart as pytorch-fid has them. Both sides' features are compared.
- frechet: the distance between the statistics of two sets of `--images` random features of 2,048,
  means and covariances given, beside scipy.linalg.sqrtm of the product of the covariances, which
  pytorch-fid, clean-fid and ADM take.

Each side lives in a process of its own, bound to `--threads` CPUs, and the sides of a part take
turns, so that other work on the machine slows both; the ratio is the median over turns.
"""

import argparse
import hashlib
import json
import math
import statistics
import sys
import time

import numpy as np

from benchmarks import workers

PARTS = {"inception": ("torch", "vqlab"), "frechet": ("scipy", "eigenvalues")}
FEATURES = 2048


def seeded_state() -> dict:
    """Random weights under the official names that keep the features' size."""
    from vqlab.export.inception_weights import official_shapes

    state = {}
    for name, shape in official_shapes().items():
        rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("weight") and len(shape) > 1:
            array = rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
        else:
            array = 0.1 * rng.normal(size=shape) + name.endswith("bn.weight")
        state[name] = array.astype(np.float32)
    return state


def images(args) -> np.ndarray:
    """[B, 299, 299, 3] float32."""
    shape = (args.batch_size, 299, 299, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def torch_side(args):
    import torch

    from benchmarks.inception_torch import TorchInception

    torch.set_num_threads(args.threads)
    network, x = TorchInception(seeded_state()), torch.from_numpy(images(args)).permute(0, 3, 1, 2)
    x = x.contiguous()
    return lambda: network(x).numpy()


def vqlab_side(args):
    import jax

    from vqlab.export.inception_weights import params_from_official
    from vqlab.host.memory import keep_freed_memory
    from vqlab.models.pretrained.inception import inception_features

    keep_freed_memory()
    params, x = jax.device_put((params_from_official(seeded_state()), images(args)))
    network = jax.jit(lambda params, x: inception_features(params, x)["2048"])
    return lambda: np.asarray(network(params, x))


def statistics_of(args) -> tuple:
    """(mean, covariance, mean, covariance) of two sets of features."""
    rng = np.random.default_rng(0)
    given = []
    for _ in range(2):
        # Features as correlated as real ones: eigenvalues that fall over four powers of ten.
        scales = np.logspace(0, -2, FEATURES)
        rows = rng.normal(size=(args.images, FEATURES)) * rng.permutation(scales)
        given += [rows.mean(0), np.cov(rows, rowvar=False)]
    return tuple(given)


def eigenvalue_side(args):
    from vqlab.evaluation.frechet import frechet_distance

    given = statistics_of(args)
    return lambda: np.array(frechet_distance(*given))


def scipy_side(args):
    from scipy.linalg import sqrtm

    mean_a, a, mean_b, b = statistics_of(args)

    def distance():
        root = sqrtm(a @ b)
        return np.square(mean_a - mean_b).sum() + np.trace(a + b - 2 * np.real(root))

    return distance


SIDES = {
    "torch": torch_side,
    "vqlab": vqlab_side,
    "scipy": scipy_side,
    "eigenvalues": eigenvalue_side,
}


def work(args) -> None:
    """A side's process: its result, then a timed pass for every line that comes in."""
    run = SIDES[args.side](args)
    result = np.asarray(run(), np.float64).ravel()[:FEATURES]
    print(json.dumps(result.tolist()), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - start), flush=True)


def measure(part: str, args) -> dict:
    """Both sides of a part."""
    base, own = PARTS[part]
    started, results, times = {}, {}, {base: [], own: []}
    for side in times:
        started[side] = workers.start_worker("benchmarks.evaluate", side, args.threads)
        results[side] = np.array(workers.answer(started[side], side))
    for _ in range(args.repeats):
        for side, worker in started.items():
            time.sleep(0.3)  # PyTorch's threads spin for a while after their work
            print("go", file=worker.stdin, flush=True)
            times[side].append(workers.answer(worker, side))
    for worker in started.values():
        worker.stdin.close()
        worker.wait()
    ratios = [a / b for a, b in zip(times[base], times[own], strict=True)]
    error = np.abs(results[base] - results[own]).max() / np.abs(results[base]).max()
    return {
        **{f"{side}_seconds": statistics.median(seconds) for side, seconds in times.items()},
        "speedup": statistics.median(ratios),
        "slowest_and_fastest_turn": [min(ratios), max(ratios)],
        "relative_difference": float(error),
    }


def measure_parts(args) -> dict:
    """Everything that the table and the JSON line hold."""
    return {
        **{part: measure(part, args) for part in args.parts},
        "batch_size": args.batch_size,
        "images": args.images,
        "threads": args.threads,
        "cpu": workers.cpu_model(),
    }


def print_table(result: dict) -> None:
    """The result for people."""
    print(f"{result['threads']} threads on {result['cpu']}, float32 and float64\n")
    for part in PARTS:
        if part in result:
            print_part(part, result)


def print_part(part: str, whole: dict) -> None:
    base, own = PARTS[part]
    what = f"Inception, batch {whole['batch_size']}"
    if part == "frechet":
        what = f"Frechet distance of {FEATURES} features, {whole['images']} images"
    result = whole[part]
    low, high = result["slowest_and_fastest_turn"]
    print(f"{what}: {own} is {result['speedup']:.2f} times as fast as {base}")
    print(f"  turns {low:.2f} to {high:.2f}; results differ by {result['relative_difference']:.1e}")
    for side in (base, own):
        seconds = result[f"{side}_seconds"]
        rate = f", {whole['batch_size'] / seconds:.2f} images/s" if part == "inception" else ""
        print(f"  {side:12} {seconds:8.2f} s{rate}")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = workers.CommandLine("evaluate", __doc__, SIDES)
    names = ",".join(PARTS)
    parser.add_argument("--parts", default=names, help="comma-separated; default %(default)s")
    parser.add_count("batch-size", 8)
    parser.add_count("images", 50_000, "of each set")
    parser.add_count("repeats", 5, "turns")
    args = parser.parse_args()
    args.parts = parser.choices("--parts", args.parts, PARTS)
    return args


def main() -> None:
    args = parse_arguments()
    if "inception" in args.parts:
        workers.require_torch("benchmarks.evaluate", "leave out --parts inception")
    workers.compare(args, work, measure_parts, print_table)


if __name__ == "__main__":
    main()
