"""What is written when a run has been evaluated: numbers, pictures and the report."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from vqlab.evaluation import figures, report
from vqlab.evaluation.evaluators import ReconstructionEvaluator

EVALUATION_FILE, PICTURE_FILE = "evaluation.json", "reconstructions.png"


def protocols(evaluators: Mapping[str, ReconstructionEvaluator]) -> dict[str, str]:
    """How each number was measured, as `EVALUATOR/METRIC`."""
    return {
        f"{name}/{metric}": text
        for name, evaluator in evaluators.items()
        for metric, text in evaluator.protocol.items()
    }


def write_results(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    evaluators: Mapping[str, ReconstructionEvaluator],
    results: Mapping[str, float],
    *,
    step: int | str,
    parameters: int,
    load_path: str,
) -> pathlib.Path | None:
    """Writes evaluation.json, and of the first evaluator's images report.html and a picture.

    `load_path` is what the report gives to `vqlab.load`. Returns the report's path; None on all
    processes but the first, which alone writes.
    """
    if jax.process_index() != 0 or not evaluators:
        return None
    protocol = protocols(evaluators)
    saved = {
        "step": step,
        "results": {
            name: {"value": value, "protocol": protocol[name]} for name, value in results.items()
        },
    }
    (workdir / EVALUATION_FILE).write_text(json.dumps(saved, indent=2) + "\n")
    name, evaluator = next(iter(evaluators.items()))
    own = {
        metric.removeprefix(f"{name}/"): value
        for metric, value in results.items()
        if metric.startswith(f"{name}/")
    }
    if len(evaluator.originals):
        figures.write_grid_png(
            workdir / PICTURE_FILE,
            evaluator.originals,
            evaluator.reconstructions,
            headings=report.grid_headings(own, evaluator.num_groups),
        )
    quantizer = config.model.quantizer
    return report.write_report(
        workdir,
        title=f"MGVQ: {workdir.name}",
        results=own,
        protocol=evaluator.protocol,
        originals=evaluator.originals,
        reconstructions=evaluator.reconstructions,
        summary={
            "steps": step,
            "parameters": f"{parameters:,}",
            "groups x codewords per group": f"{quantizer.num_groups} x {quantizer.codebook_size}",
            "training images": f"{config.data.name} at {config.image_size} px",
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        },
        config=json.loads(config.to_json()),
        load_path=load_path,
    )


def count_parameters(params) -> int:
    """Numbers in a tree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
