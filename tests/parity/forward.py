"""Evaluation forward passes of the tokenizer (mgvq_tiny_*.npz)."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import load_tokenizer, to_nchw, to_nhwc
from tests.parity.report import Report
from vqlab.models.tokenizer import Tokenizer
from vqlab.ops.codebook import l2_normalize
from vqlab.ops.pixel_shuffle import duplicate_channels


def check_forward(report: Report, config: dict) -> None:
    """Checks every output of every input in/x, in/x_NAME; the latter's outputs are out/NAME_*."""
    model, variables = load_tokenizer(report.arrays, config)
    inputs = [name for name in report.arrays if re.fullmatch(r"in/x(_\w+)?", name)]
    for name in inputs:
        prefix = name.removeprefix("in/x").removeprefix("_")
        _check_input(report, config, model, variables, name, f"{prefix}_" if prefix else "")


def _check_input(
    report: Report, config: dict, model: Tokenizer, variables: dict, name: str, prefix: str
) -> None:
    encode, decode = (_captured(model, variables, method) for method in ("encode", "decode"))
    quantized, encoded = encode(to_nhwc(report.arrays[name]))
    latents = encoded["quant_conv"]["__call__"][0]
    margin = _margin(latents, variables["params"]["quantizer"]["codebook"])
    tolerance = config.get("f32_vs_f64_max_abs_diff", {}).get(f"{prefix}margin", 0.0)
    grid, ties = _check_indices(report, prefix, quantized.indices, margin, tolerance)
    # What follows a tie is compared on the official side of it.
    quantized_latents = _lookup(model, variables, grid, None) if ties else quantized.latents
    images, decoded = decode(quantized_latents)
    duplicated = duplicate_channels(
        decoded["post_quant_conv"]["__call__"][0], model.decoder.widths[-1]
    )
    values = {
        "enc": encoded["encoder"]["__call__"][0],
        "h": latents,
        "quant": quantized_latents,
        "recon": images,
        "enc_project_in": encoded["encoder"]["project_in"]["__call__"][0],
        "dec_project_in": decoded["decoder"]["project_in"]["__call__"][0] + duplicated,
        **_stage_outputs(encoded["encoder"], "enc"),
        **_stage_outputs(decoded["decoder"], "dec"),
    }
    for output in [name for name in report.arrays if name.startswith(f"out/{prefix}")]:
        key = output.removeprefix(f"out/{prefix}")
        if key == "margin":
            report.close(output, margin)
        elif key in values:
            stored = report.arrays[output]
            report.close(output, to_nchw(values[key])[: len(stored)])  # stages: first image only
        elif match := re.fullmatch(r"(codebook_entry|decode_code)_g(\d+)", key):
            entry = _lookup(model, variables, grid, int(match[2]))
            ours = entry if match[1] == "codebook_entry" else decode(entry)[0]
            report.close(output, to_nchw(ours))


def _check_indices(
    report: Report, prefix: str, ours, margin: np.ndarray, tolerance: float
) -> tuple[np.ndarray, int]:
    """Official indices as [B,h,w,G], and how many of ours fell otherwise on provable ties."""
    name = f"out/{prefix}indices"
    ours, theirs = np.asarray(ours), report.take(name)
    if theirs.size != ours.size:
        report.add(name, np.inf, 0, f"{theirs.shape} for {ours.shape}")
        return ours, 0
    gaps = report.arrays.get(f"out/{prefix}margin", margin)
    flipped, is_tie = ours.reshape(theirs.shape) != theirs, gaps <= tolerance
    ties = int(np.sum(flipped & is_tie))
    report.add(name, np.sum(flipped & ~is_tie), 0, f"mismatches, {ties} provable ties")
    return theirs.reshape(ours.shape), ties


def _captured(model: Tokenizer, variables: dict, method: str):
    """A jitted method of the model that also returns every inner module's output."""

    @jax.jit
    def call(x):
        result, state = model.apply(variables, x, method=method, capture_intermediates=True)
        return result, state["intermediates"]

    return call


def _stage_outputs(modules: dict, short: str) -> dict[str, jax.Array]:
    """The released stages end with the downsampling and begin with the upsampling."""
    outputs = {}
    for module in modules:
        if match := re.fullmatch(r"stage(\d+)", module):
            last = f"down{match[1]}" if f"down{match[1]}" in modules else module
            outputs[f"{short}_stage{match[1]}"] = modules[last]["__call__"][0]
    return outputs


def _margin(latents: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Best minus second best score -|z - e|^2 of unit vectors: [B*h*w,G]."""
    groups, _, dim = codebook.shape
    tokens = l2_normalize(jnp.asarray(latents).reshape(-1, groups, dim))
    scores = 2 * jnp.einsum("ngd,gkd->ngk", tokens, l2_normalize(codebook))
    best = np.asarray(jax.lax.top_k(scores, 2)[0])
    return best[..., 0] - best[..., 1]


def _lookup(model: Tokenizer, variables: dict, indices: np.ndarray, groups: int | None):
    return model.apply(
        variables,
        jnp.asarray(indices),
        num_groups=groups,
        method=lambda module, *args, **kwargs: module.quantizer.lookup(*args, **kwargs),
    )
