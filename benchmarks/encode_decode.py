"""Encoding and decoding one image with MGVQ on CPU, against plain PyTorch of the same shapes.

    python -m benchmarks.encode_decode [--config configs/mgvq_f16.py:groups=8 --image-size 256]

vqlab's side is what `vqlab.load` gives: NumPy images to indices, and indices to NumPy images, in
float32. The other side is benchmarks/encode_decode_torch.py, which is ours, in inference mode;
convolutions channels first, as released. Weights are random, as many on both sides. The first call,
in which vqlab compiles, is apart. Each side lives in a process of its own, bound to `--threads`
CPUs; the two take turns, so that other work on the machine slows both. CPU seconds are summed over
threads. Needs PyTorch: pip install -r requirements-torch.txt.
"""

import argparse
import json
import statistics
import sys
import time

from benchmarks import workers

SIDES = ("torch", "vqlab")
PASSES = ("encode", "decode")


def image(args):
    """The same random image for both sides: [1, side, side, 3] in [-1, 1]."""
    import numpy as np

    shape = (1, args.image_size, args.image_size, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def model_node(args) -> dict:
    """The config's network, with all activations in float32."""
    from vqlab.convert import read_config
    from vqlab.models.dtypes import with_dtype

    return with_dtype(read_config(args.config).model.to_dict(), "float32")


def vqlab_side(args):
    """(encode, decode, number of parameters); both take and give NumPy arrays."""
    import jax
    import jax.numpy as jnp

    from vqlab import models
    from vqlab.inference import Loaded
    from vqlab.models.codec import Weights

    node = model_node(args)
    module = models.build(node)
    init = jax.jit(lambda images: module.init(jax.random.key(0), images, train=False))
    tokenizer = Loaded(node, Weights(init(jnp.asarray(image(args))), {}))
    size = sum(x.size for x in jax.tree.leaves(tokenizer.params))
    return tokenizer.encode, tokenizer.decode, size


def torch_side(args):
    """The same in PyTorch, whose arrays are channels first."""
    import torch

    from benchmarks.encode_decode_torch import Tokenizer

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    node = model_node(args)
    network = Tokenizer(node["encoder"], node["quantizer"], node["decoder"]).eval()
    encode, decode = map(torch.inference_mode(), (network.encode, network.decode))
    return (
        lambda images: encode(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()),
        decode,
        sum(parameter.numel() for parameter in network.parameters()),
    )


def timed_passes(encode, decode, images) -> list[tuple[float, float]]:
    """(seconds, CPU seconds) of encoding, and of decoding what came of it."""
    times, value = [], images
    for function in (encode, decode):
        start = time.perf_counter(), time.process_time()
        value = function(value)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return times


def work(args) -> None:
    """One side's process: prints a line of its first call, then times for every request."""
    encode, decode, size = {"vqlab": vqlab_side, "torch": torch_side}[args.side](args)
    images = image(args)
    first = timed_passes(encode, decode, images)
    print(json.dumps({"parameters": size, "first": first}), flush=True)
    timed_passes(encode, decode, images)
    for _ in sys.stdin:
        print(json.dumps(timed_passes(encode, decode, images)), flush=True)


def measure(args) -> dict:
    """Both sides in turns, and everything that the table and the JSON line hold."""
    started, facts, times = {}, {}, {side: [] for side in SIDES}
    for side in SIDES:
        started[side] = workers.start_worker("benchmarks.encode_decode", side, args.threads)
        facts[side] = workers.answer(started[side], side)
    for _ in range(args.repeats):
        for side, worker in started.items():
            time.sleep(0.3)  # PyTorch's threads spin for a while after their work
            print("go", file=worker.stdin, flush=True)
            times[side].append(workers.answer(worker, side))
    for worker in started.values():
        worker.stdin.close()
        worker.wait()
    result = {f"{side}_parameters": facts[side]["parameters"] for side in SIDES}
    for side in SIDES:
        result[f"{side}_first_seconds"] = sum(seconds for seconds, _ in facts[side]["first"])
        result |= summary(side, times[side])
    for kind in ("seconds", "cpu_seconds"):
        result[f"{kind}_ratio"] = result[f"torch_{kind}"] / result[f"vqlab_{kind}"]
    names = ("config", "image_size", "repeats", "threads")
    return {
        **result,
        **{name: getattr(args, name) for name in names},
        **workers.machine_facts(),
    }


def summary(side: str, turns: list) -> dict:
    """Medians over turns of each pass, and of both together."""
    result = {}
    for column, kind in enumerate(("seconds", "cpu_seconds")):
        for row, name in enumerate(PASSES):
            result[f"{side}_{name}_{kind}"] = statistics.median(turn[row][column] for turn in turns)
        both = [sum(one[column] for one in turn) for turn in turns]
        result[f"{side}_{kind}"] = statistics.median(both)
    return result


def print_table(result: dict) -> None:
    """The result for people."""
    print(
        "one image of {image_size} px, {config}, float32\n{threads} threads on {cpu}; python "
        "{python}, jax {jax}, torch {torch}; load {load:.1f}\n".format(**result)
    )
    heads = ("encode s", "decode s", "both s", "both CPU s", "first call s")
    print(f"{'':8}" + "".join(f"{head:>14}" for head in heads))
    names = ("encode_seconds", "decode_seconds", "seconds", "cpu_seconds", "first_seconds")
    for side in SIDES:
        print(f"{side:8}" + "".join(f"{result[f'{side}_{name}']:>14.2f}" for name in names))
    print(
        "torch / vqlab: {seconds_ratio:.2f} in seconds, {cpu_seconds_ratio:.2f} in CPU "
        "seconds".format(**result)
    )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = workers.CommandLine("encode_decode", __doc__, SIDES)
    parser.add_argument("--config", default="configs/mgvq_f16.py:groups=8", help="of MGVQ")
    parser.add_count("image-size", 256)
    parser.add_count("repeats", 9, "turns; medians count")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    workers.require_torch("benchmarks.encode_decode")
    workers.compare(args, work, measure, print_table)


if __name__ == "__main__":
    main()
