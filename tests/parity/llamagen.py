"""Probabilities of the next token after guidance, temperature, top-k, top-p (llamagen_logits)."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.report import Report
from vqlab.diffusion.guidance import guide
from vqlab.ops.token_logits import draw_token, filter_logits


def check_llamagen(report: Report, config: dict) -> None:
    """All settings on all logits."""
    process = jax.jit(_processed)
    tags = sorted({name.split("/")[1] for name in report.arrays if name.startswith("in/")})
    for tag in tags:
        cond, uncond = (jnp.asarray(report.arrays[f"in/{tag}/{n}"]) for n in ("cond", "uncond"))
        for i, setting in enumerate(config["settings"]):
            # The released code guides for scales above 1 only; ours takes any.
            scale = setting["cfg"] if setting["cfg_flag"] and setting["cfg"] > 1 else 1.0
            numbers = (setting["temperature"], setting["top_k"], setting["top_p"])
            processed = process(cond, uncond, jnp.float32(scale), *map(jnp.asarray, numbers))
            probs, greedy, logits = map(np.asarray, processed)
            name = f"out/{tag}/s{i}"
            report.equal(f"{name}/kept", np.sum(probs > 0, axis=-1))
            # Which of equal tokens is taken, or stays, is left to the sort: their values, which are
            # those of all tokens where none are equal, and not their places are compared.
            theirs = report.take(f"{name}/greedy")
            mismatches = np.sum(_at(logits, greedy) != _at(logits, theirs))
            report.add(f"{name}/greedy", mismatches, 0, "mismatches")
            if _has_ties(np.asarray(cond)) and setting["top_p"] < 1:
                theirs = np.sort(report.take(f"{name}/probs"), axis=-1)
                report.add(f"{name}/probs", np.max(np.abs(np.sort(probs) - theirs)), 1e-5)
            else:
                report.close(f"{name}/probs", probs)


def _at(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.take_along_axis(logits, tokens[:, None], axis=-1)


def _has_ties(logits: np.ndarray) -> bool:
    return any(len(np.unique(row)) < len(row) for row in logits)


def _processed(cond, uncond, scale, temperature, top_k, top_p):
    logits = guide(cond, uncond, scale, cond.shape[-1])
    keys = jax.random.split(jax.random.key(0), len(cond))
    greedy = draw_token(keys, logits, 0.0, top_k, top_p)
    probs = jax.nn.softmax(filter_logits(logits, temperature, top_k, top_p), axis=-1)
    return probs, greedy, logits
