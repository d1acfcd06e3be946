"""Training pass of the grouped quantizer: vqlab against the straightforward PyTorch formulation.

    python -m benchmarks.quantizer [--tokens 2048 --groups 4 --codebook-size 8192 --dim 8] [--json]

One pass is assignment, vq and commitment losses, gradients of the latents and of the codebook,
usage statistics, and the reseeding draw with the reseeded codebook. Each side lives in a process of
its own, bound to `--threads` CPUs; the passes of the two sides alternate, so that other work on the
machine slows both. Needs PyTorch: pip install -r requirements-torch.txt.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import sys
import time

from benchmarks import workers

PASSES_PER_TURN = {"torch": 1, "vqlab": 5}


def make_inputs(args) -> dict:
    """The same random latents, cotangents and unit codewords for both sides, as NumPy arrays."""
    import numpy as np

    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(args.groups, args.codebook_size, args.dim))
    shape = (args.tokens, args.groups * args.dim)
    return {
        "latents": rng.normal(size=shape).astype(np.float32),
        "cotangent": (rng.normal(size=shape) / shape[0]).astype(np.float32),
        "codebook": (codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)).astype(
            np.float32
        ),
    }


def vqlab_side(args):
    """A function that runs one pass of vqlab's quantizer, compiled already."""
    import jax
    import jax.numpy as jnp

    from vqlab.nn.quantizers import GroupedQuantizer
    from vqlab.ops.codebook import reseed

    inputs = make_inputs(args)
    latents, cotangent = (
        jnp.asarray(inputs[name])[None, :, None] for name in ("latents", "cotangent")
    )
    quantizer = GroupedQuantizer(args.groups, args.codebook_size, args.groups * args.dim)
    stats = quantizer.init(jax.random.key(0), latents, train=False)["codebook_stats"]

    def loss_fn(codebook, latents, stats, key):
        variables = {"params": {"codebook": codebook}, "codebook_stats": stats}
        quantized, updated = quantizer.apply(
            variables, latents, train=True, rngs={"reseed": key}, mutable=["codebook_stats"]
        )
        loss = jnp.sum(quantized.latents * cotangent) + sum(map(jnp.sum, quantized.losses.values()))
        return loss, (quantized.stats | quantized.update, updated["codebook_stats"])

    def training_pass(codebook, stats, latents, step):
        key = jax.random.fold_in(jax.random.key(0), step)
        (_, (seen, stats)), gradients = jax.value_and_grad(loss_fn, (0, 1), has_aux=True)(
            codebook, latents, stats, key
        )
        codebook = reseed(codebook, seen["reseed_codewords"], seen["reseed_keep"])
        return codebook, stats, gradients, seen["usage"]

    state = [jnp.asarray(inputs["codebook"]), stats, jnp.int32(0)]
    compiled = jax.jit(training_pass).lower(state[0], state[1], latents, state[2]).compile()

    def run():
        codebook, stats, *rest = jax.block_until_ready(
            compiled(state[0], state[1], latents, state[2])
        )
        state[:] = codebook, stats, state[2] + 1
        return rest

    return run


def torch_side(args):
    """A function that runs one pass as released: every score, a full sort, one-hot usage."""
    import torch
    from torch.nn.functional import normalize, one_hot

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = {name: torch.from_numpy(array) for name, array in make_inputs(args).items()}
    codebook = inputs["codebook"].requires_grad_()
    latents = inputs["latents"].requires_grad_()
    usage_ema = torch.zeros(args.groups, args.codebook_size)
    recent = torch.full((args.groups, 65_536), -1)

    def one_group(g, tokens, codewords):
        """Quantized tokens [N, D], loss, reseeded codewords [K, D] and usage of group g."""
        tokens, unit = normalize(tokens, dim=-1), normalize(codewords, dim=-1)
        with torch.no_grad():
            scores = (
                2 * tokens @ unit.T - (tokens**2).sum(1, keepdim=True) - (unit**2).sum(1)
            )  # [N, K], minus the squared distance
            indices = scores.sort(dim=1).indices[:, -1]
            chosen = one_hot(indices, args.codebook_size).float()  # [N, K]
            usage_ema[g].lerp_(chosen.mean(0), 0.01)
            recent[g] = torch.cat([recent[g], indices])[-recent.shape[1] :]
            usage = recent[g].unique().numel() / args.codebook_size
            weights = (scores - scores.max()).T.softmax(dim=1).clamp(min=1e-10)  # [K, N]
            drawn = tokens[torch.multinomial(weights, 1)[:, 0]]
            keep = 1 - torch.exp(-usage_ema[g] * args.codebook_size * 10 / 0.01 - 1e-3)
            reseeded = codewords * keep[:, None] + drawn * (1 - keep[:, None])
        picked = unit[indices]
        vq = ((picked - tokens.detach()) ** 2).mean()
        commit = 0.25 * ((picked.detach() - tokens) ** 2).mean()
        return tokens + (picked - tokens).detach(), vq + commit, reseeded, usage

    def run():
        groups = [
            one_group(g, *pair)
            for g, pair in enumerate(zip(latents.split(args.dim, dim=1), codebook, strict=True))
        ]
        quantized, losses, reseeded, usage = zip(*groups, strict=True)
        loss = (torch.cat(quantized, 1) * inputs["cotangent"]).sum() + sum(losses)
        gradients = torch.autograd.grad(loss, (codebook, latents))
        with torch.no_grad():
            codebook.copy_(torch.stack(reseeded))
        return gradients, usage

    return run


def work(args) -> None:
    """One side's process: prints a line with its memory, then a line of times for every request."""
    run = {"vqlab": vqlab_side, "torch": torch_side}[args.side](args)
    print(json.dumps(workers.additional_peak_mb(run)), flush=True)
    for _ in sys.stdin:
        times = []
        for _ in range(PASSES_PER_TURN[args.side]):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def measure(args) -> dict:
    """Run both sides and return everything the table and the JSON line hold."""
    started, memory, times = {}, {}, {"torch": [], "vqlab": []}
    for side in times:  # one after the other, so that neither disturbs the other's memory
        started[side] = workers.start_worker("benchmarks.quantizer", side, args.threads)
        memory[side] = workers.answer(started[side], side)
    for _ in range(args.repeats):
        for side, worker in started.items():
            time.sleep(0.3)  # PyTorch's threads spin for a while after their work
            print("go", file=worker.stdin, flush=True)
            times[side] += workers.answer(worker, side)
    for worker in started.values():
        worker.stdin.close()
        worker.wait()
    seconds = {side: statistics.median(values) for side, values in times.items()}
    has_memory = None not in memory.values()
    return {
        "speedup": round(seconds["torch"] / seconds["vqlab"], 1),
        "memory_ratio": round(memory["vqlab"] / memory["torch"], 4) if has_memory else None,
        "torch_seconds": round(seconds["torch"], 4),
        "vqlab_seconds": round(seconds["vqlab"], 4),
        "torch_additional_mb": memory["torch"],
        "vqlab_additional_mb": memory["vqlab"],
        **{name: getattr(args, name) for name in ("tokens", "groups", "codebook_size", "dim")},
        "repeats": args.repeats,
        "threads": args.threads,
        "device": "cpu",
        "cpu": workers.cpu_model(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "torch")},
    }


def print_table(result: dict) -> None:
    """The result for people."""
    print(
        "quantizer training pass: {tokens} tokens, {groups} groups x {codebook_size} codewords x "
        "{dim}, float32\n{threads} threads on {cpu}; python {python}, jax {jax}, flax {flax}, "
        "torch {torch}\n".format(**result)
    )
    print(f"{'':8}{'seconds (median)':>18}{'additional peak MB':>20}")
    for side in ("torch", "vqlab"):
        peak = result[f"{side}_additional_mb"]
        shown = "not measured" if peak is None else f"{peak:.1f}"
        print(f"{side:8}{result[f'{side}_seconds']:>18.4f}{shown:>20}")
    ratio = result["memory_ratio"]
    print(
        f"vqlab is {result['speedup']:.0f} times faster"
        + (f" and takes {100 * ratio:.1f} % of the memory" if ratio is not None else "")
        + f"\n\n{workers.MEMORY_NOTE}"
    )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = workers.CommandLine("quantizer", __doc__, ("vqlab", "torch"))
    sizes = {"tokens": 2048, "groups": 4, "codebook-size": 8192, "dim": 8, "repeats": 5}
    for name, default in sizes.items():
        parser.add_count(name, default)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    workers.require_torch("benchmarks.quantizer")
    workers.compare(args, work, measure, print_table)


if __name__ == "__main__":
    main()
