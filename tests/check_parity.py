"""Checks vqlab against arrays computed by the released PyTorch code.

    python -m tests.check_parity FILE.npz ...

Prints a row for each array with its largest relative error, max |a - b| / max |b|, or the number of
mismatches for integers. Exit code 0: all within the limits (1e-4 for float32 outputs, 1e-3 for
gradients); 1: one missed, or an array that nothing looked at; 2: a file that cannot be read or is
of another kind.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import jax

from tests.parity.binary import check_binary, check_magvit2
from tests.parity.concept_transformer import check_concept_transformer
from tests.parity.diffloss import check_diffloss
from tests.parity.diffusion import check_diffusion
from tests.parity.dit import check_dit
from tests.parity.forward import check_forward
from tests.parity.fsq import check_fsq
from tests.parity.ibq import check_ibq
from tests.parity.inception import check_inception_features, check_inception_resize
from tests.parity.index_transformer import check_index_transformer
from tests.parity.llamagen import check_llamagen
from tests.parity.measures import check_eval_metrics, check_eval_metrics_extra
from tests.parity.official import load
from tests.parity.pixel_tokenizer import check_pixel_tokenizer
from tests.parity.quantizer import check_quantizer
from tests.parity.report import Report, Unsupported
from tests.parity.residual import check_residual
from tests.parity.semanticist import check_semanticist
from tests.parity.simvq import check_simvq
from tests.parity.titok import check_titok
from tests.parity.trainstep import check_trainstep
from tests.parity.vit import check_vit

KINDS = {
    "tokenizer": "a tokenizer's weights and its forward passes (mgvq_tiny_*.npz)",
    "trainstep": "a tokenizer's training step, with the weights in the file beside it "
    "(mgvq_*_trainstep.npz)",
    "quantizer": "training steps of a quantizer alone (mgvq_quantizer_train*.npz)",
    "fsq": "a finite scalar quantizer alone (quantizer_fsq*.npz)",
    "binary": "lookup-free and binary spherical quantizers alone (quantizer_lfq*.npz, "
    "quantizer_bsq*.npz)",
    "magvit2": "Open-MAGVIT2's lookup-free quantizer alone (quantizer_magvit2_lfq*.npz)",
    "residual": "residual and plain vector quantizers alone (quantizer_rvq*.npz)",
    "simvq": "SimVQ alone (quantizer_simvq*.npz)",
    "ibq": "an index backpropagation quantizer alone (quantizer_ibq*.npz)",
    "vit": "Semanticist's encoder (semanticist_vit_*.npz)",
    "dit": "Semanticist's decoder (semanticist_dit_*.npz)",
    "semanticist": "its training step and sampling, with the weights in the two files beside it "
    "(semanticist_trainstep*.npz)",
    "diffusion": "schedules, losses and samplers (semanticist_diffusion*.npz)",
    "diffloss": "the diffusion head of a second stage (semanticist_diffloss_*.npz)",
    "inception_features": "FID's Inception with seeded weights (inception_features*.npz)",
    "inception_resize": "the resizes before it (inception_resize*.npz)",
    "eval_metrics": "FID, KID, Inception Score, precision and recall (eval_metrics.npz)",
    "eval_metrics_extra": "the same and sFID, of other features (eval_metrics_extra.npz)",
    "index_transformer": "MGVQ's second stage (mgvq_ar_*.npz)",
    "concept_transformer": "Semanticist's second stage (semanticist_gpt_*.npz)",
    "llamagen": "probabilities of the next token (llamagen_logits*.npz)",
    "titok": "TiTok's stages and its form that gives pixels (titok_tiny*.npz)",
    "pixel_tokenizer": "the tokenizer whose codes TiTok learns (titok_pixel_tokenizer*.npz)",
}

# What the cases of a file of bottlenecks say that they are; Open-MAGVIT2's say nothing.
CASES = {
    "fsq": {"fsq"},
    "binary": {"lfq", "bsq", "bsqvit"},
    "residual": {"rvq", "vq"},
    "simvq": {"simvq"},
    "ibq": {"ibq"},
    "magvit2": {None},
}


def kind(arrays: dict, config: dict) -> str:
    """Which of KINDS a file is, by what it holds."""
    if "w/embedding.weight" in arrays and "in/R" in arrays:
        return "quantizer"
    kinds = {case.get("kind") for case in config.get("cases", [])}
    for name, own in CASES.items():
        if kinds and kinds <= own:
            return name
    if {"encoder", "decoder", "codebook_groups"} <= config.keys():
        if "out/loss" in arrays:
            return "trainstep"
        if "w/quantize.embedding.weight" in arrays:
            return "tokenizer"
    marks = {
        "vit": "w/encoder.cls_token",
        "dit": "w/autoenc_cond_embedder.weight",
        "semanticist": "in/nested_k",
        "diffusion": "out/linear1000/betas",
        "diffloss": "w/net.cond_embed.weight",
        "index_transformer": "w/ar_head.head.weight",
        "concept_transformer": "w/diffusion_pos_embed_learned",
        "llamagen": "out/small/s0/probs",
        "titok": "w/latent_tokens",
        "pixel_tokenizer": "w/encoder.down.0.block.0.conv1.weight",
    }
    for name, mark in marks.items():
        if mark in arrays:
            return name
    families = {
        "inception_features": "out/torchfid/",
        "inception_resize": "out/tf1/",
        "eval_metrics": "out/fid/",
        "eval_metrics_extra": "out/feats/",
    }
    for name, family in families.items():
        if any(array.startswith(family) for array in arrays):
            return name
    known = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
    raise Unsupported(f"unknown kind of array file; known kinds are {known}")


def check_file(path: Path) -> Report:
    """Compares all arrays of one file; Unsupported or OSError when that is not possible."""
    arrays, config = load(path)
    report = Report(arrays)
    match kind(arrays, config):
        case "tokenizer":
            check_forward(report, config)
        case "trainstep":
            check_trainstep(report, _weights_beside(path, arrays, config), config)
        case "quantizer":
            check_quantizer(report, config)
        case "fsq":
            check_fsq(report, config)
        case "binary":
            check_binary(report, config)
        case "magvit2":
            check_magvit2(report, config)
        case "residual":
            check_residual(report, config)
        case "simvq":
            check_simvq(report, config)
        case "ibq":
            check_ibq(report, config)
        case "vit":
            check_vit(report, config)
        case "dit":
            check_dit(report, config)
        case "semanticist":
            check_semanticist(report, config, path)
        case "diffusion":
            check_diffusion(report, config)
        case "diffloss":
            check_diffloss(report, config)
        case "inception_features":
            check_inception_features(report, config, path)
        case "inception_resize":
            check_inception_resize(report, config)
        case "eval_metrics":
            check_eval_metrics(report, config)
        case "eval_metrics_extra":
            check_eval_metrics_extra(report, config)
        case "index_transformer":
            check_index_transformer(report, config)
        case "concept_transformer":
            check_concept_transformer(report, config)
        case "llamagen":
            check_llamagen(report, config)
        case "titok":
            check_titok(report, config)
        case "pixel_tokenizer":
            check_pixel_tokenizer(report, config)
    report.finish()
    return report


def _weights_beside(path: Path, arrays: dict, config: dict) -> dict:
    """Arrays with a training step's weights: this file, or the one beside it."""
    if "w/quantize.embedding.weight" in arrays:
        return arrays
    candidates = [path.with_name(path.name.replace("_trainstep", ""))]
    if "weights_from" in config:
        candidates.append(path.with_name(config["weights_from"]))
    for candidate in candidates:
        if candidate != path and candidate.is_file():
            return load(candidate)[0]
    raise Unsupported(f"its weights are not beside it; looked for {[c.name for c in candidates]}")


def print_report(path: Path, report: Report) -> None:
    width = max(len(row.name) for row in report.rows)
    print(path)
    for row in report.rows:
        verdict = "ok  " if row.is_met else "MISS"
        print(
            f"  {verdict} {row.name:{width}}  {row.error:9.2e}  limit {row.limit:.1e}  {row.note}"
        )
    missed = sum(not row.is_met for row in report.rows)
    print(f"  {len(report.rows)} rows, {missed} missed")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.check_parity", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    code = 0
    for path in parser.parse_args(arguments).files:
        try:
            with jax.default_matmul_precision("highest"):  # accelerators round to less
                report = check_file(path)
        except (Unsupported, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{path}: {error}", file=sys.stderr)
            code = 2
            continue
        print_report(path, report)
        if not report.is_met:
            code = max(code, 1)
    return code


if __name__ == "__main__":
    sys.exit(main())
