"""What is written when a run has been evaluated: numbers, pictures and the report."""

from __future__ import annotations

import io
import json
import math
import pathlib
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from vqlab.evaluation import figures, report
from vqlab.evaluation.evaluators import EVALUATORS, Evaluator
from vqlab.evaluation.panels import Measured, Section
from vqlab.evaluation.reconstruction import ReconstructionEvaluator
from vqlab.training.disk import naming, write_text
from vqlab.training.events import read_events

EVALUATION_FILE, PICTURE_FILE = "evaluation.json", "reconstructions.png"
MAX_EVENTS = 100  # on the page; events.jsonl has all


def protocols(evaluators: Mapping[str, Evaluator]) -> dict[str, str]:
    """How each number was measured, as `EVALUATOR/METRIC`."""
    return {
        f"{name}/{metric}": text
        for name, evaluator in evaluators.items()
        for metric, text in evaluator.protocol.items()
    }


def write_results(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    evaluators: Mapping[str, Evaluator],
    results: Mapping[str, float],
    *,
    step: int | str,
    parameters: int,
    load_path: str,
    comparison: Mapping[str, Mapping[str, float]] | None = None,
) -> pathlib.Path | None:
    """Writes evaluation.json, report.html and, of the first reconstructions, a picture.

    `load_path` is what the report gives to `vqlab.load`. `comparison` holds other runs' results by
    a label each, for the plots; see `read_results`. Returns the report's path; None on all
    processes but the first, which alone writes.
    """
    if jax.process_index() != 0 or not evaluators:
        return None
    protocol = protocols(evaluators)
    saved = {
        "step": step,
        "results": {
            name: {"value": value if math.isfinite(value) else None, "protocol": protocol[name]}
            for name, value in results.items()
        },
    }
    write_text(workdir / EVALUATION_FILE, json.dumps(saved, indent=2) + "\n")
    measured = Measured(results, comparison or {})
    for picture in list(pictures(evaluators, results).values())[:1]:
        with naming(workdir / PICTURE_FILE):
            (workdir / PICTURE_FILE).write_bytes(picture)
    method = describe_method(config, load_path)
    return report.write_report(
        workdir,
        title=f"{method.title}: {workdir.name}",
        sections=[*_sections(evaluators, measured), _events(workdir)],
        snippet=method.snippet,
        summary={
            "steps": step,
            "parameters": f"{parameters:,}",
            **method.facts,
            "training images": f"{config.data.name} at {config.image_size} px",
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        },
        config=json.loads(config.to_json()),
    )


def read_results(workdir: str | pathlib.Path) -> dict[str, float]:
    """{"EVALUATOR/METRIC": value} that `write_results` saved in another run's workdir.

    Raises:
      ValueError: nothing was saved there, or it is cut short.
    """
    path = pathlib.Path(workdir).expanduser() / EVALUATION_FILE
    if not path.exists():
        raise ValueError(f"{path} does not exist: evaluate that run first")
    try:
        saved = json.loads(path.read_text())["results"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is truncated or no evaluation") from error
    return {
        _name_today(name, saved): math.nan if entry["value"] is None else entry["value"]
        for name, entry in saved.items()
    }


def _name_today(name: str, saved: Mapping[str, Any]) -> str:
    """Where `ssim_gaussian_valid` is not beside it, `ssim_gaussian` is still that one."""
    if name.endswith("/ssim_gaussian") and f"{name}_valid" not in saved:
        return f"{name}_valid"
    return name


class Method(NamedTuple):
    """What the page says of a kind of tokenizer.

    title: its name. facts: rows of the summary. snippet: code that uses it.
    """

    title: str
    facts: dict[str, Any]
    snippet: str


def describe_method(config: ml_collections.ConfigDict, load_path: str) -> Method:
    """The method of `config.model`, to be loaded from `load_path`."""
    if config.model.name == "semanticist":
        return _semanticist(config, load_path)
    quantizer = config.model.quantizer
    if "codebook_size" not in quantizer:
        return Method(
            "Autoencoder",
            {"latent channels": quantizer.latent_channels},
            _CONTINUOUS.format(path=load_path, channels=quantizer.latent_channels),
        )
    groups, size = quantizer.num_groups, quantizer.codebook_size
    return Method(
        "MGVQ",
        {"groups x codewords per group": f"{groups} x {size}"},
        _GROUPS.format(path=load_path, num_groups=groups),
    )


_GROUPS = """\
import vqlab

tokenizer = vqlab.load({path!r})
indices = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, G]
pictures = tokenizer.decode(indices, num_groups={num_groups})  # 1 ... {num_groups}: coarse to fine
"""

_CONTINUOUS = """\
import vqlab

autoencoder = vqlab.load({path!r})
latents = autoencoder.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, {channels}]
pictures = autoencoder.decode(latents)
"""

_CONCEPTS = """\
import vqlab

tokenizer = vqlab.load({path!r})
concepts = tokenizer.encode(images)  # [B, {side}, {side}, 3] in [-1, 1] -> [B, {total}, {dim}]
pictures = tokenizer.decode(
    concepts, num_concepts={total}, guidance_scale={scale}, num_steps={steps}, seed=0
)  # 0 ... {total} concepts: what explains most comes first
"""


def _semanticist(config: ml_collections.ConfigDict, load_path: str) -> Method:
    encoder, space = config.model.encoder, config.model.latent_space
    total, dim = encoder.num_concepts, encoder.concept_dim
    latents = "pixels"
    if "autoencoder" in space:
        latents = f"{config.model.decoder.in_channels} channels of a frozen autoencoder"
    facts = {
        "concepts x numbers in each": f"{total} x {dim}",
        "what is denoised": latents,
    }
    snippet = _CONCEPTS.format(
        path=load_path,
        side=config.image_size,
        total=total,
        dim=dim,
        scale=config.sampling.guidance_scale,
        steps=config.sampling.num_steps,
    )
    return Method("Semanticist", facts, snippet)


def _sections(evaluators: Mapping[str, Evaluator], measured: Measured) -> list[Section]:
    """Of all evaluators, by kind in the order of `EVALUATORS`; equal headings get a name."""
    places = {kind: place for place, kind in enumerate(EVALUATORS.values())}
    shown = [
        (name, section)
        for name, evaluator in sorted(
            evaluators.items(), key=lambda item: places.get(type(item[1]), len(places))
        )
        if measured.own(name)
        for section in evaluator.sections(name, measured)
    ]
    times = Counter(section.heading for _, section in shown)
    return [
        section
        if times[section.heading] == 1
        else section._replace(heading=f"{section.heading} ({name})")
        for name, section in shown
    ]


def _events(workdir: pathlib.Path) -> Section:
    """What went wrong, or nearly, newest first; empty where nothing did."""
    events = read_events(workdir)
    rows = "".join(
        f"<tr><td>{event['step']}</td><td>{escape(event['event'])}</td>"
        f"<td>{escape(event['message'])}</td></tr>"
        for event in reversed(events[-MAX_EVENTS:])
    )
    head = "<tr><th>step</th><th>event</th><th></th></tr>"
    text = f"<p>The newest {MAX_EVENTS} of {len(events)}.</p>" if len(events) > MAX_EVENTS else ""
    return Section("Events", f"{text}<table>{head}{rows}</table>" if rows else "")


def pictures(evaluators: Mapping[str, Evaluator], results: Mapping[str, float]) -> dict[str, bytes]:
    """A PNG of originals and reconstructions of each evaluator that kept some, by its name."""
    measured, found = Measured(results, {}), {}
    for name, evaluator in evaluators.items():
        own = measured.own(name)
        if isinstance(evaluator, ReconstructionEvaluator) and own and len(evaluator.originals):
            headings, buffer = evaluator.headings(own), io.BytesIO()
            figures.write_grid_png(buffer, evaluator.originals, evaluator.reconstructions, headings)
            found[name] = buffer.getvalue()
    return found


def count_parameters(params) -> int:
    """Numbers in a tree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
