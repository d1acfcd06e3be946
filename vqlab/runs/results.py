"""What is written when a run has been evaluated: numbers, pictures and the report."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

import jax
import ml_collections

from vqlab.evaluation import figures, names, panels, report
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.evaluators import EVALUATORS
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Card
from vqlab.training.disk import naming, write_text
from vqlab.training.events import read_events

EVALUATION_FILE = "evaluation.json"
MAX_EVENTS = 100  # on the page; events.jsonl has all


def protocols(evaluators: Mapping[str, Evaluator]) -> dict[str, str]:
    """How each number was measured, as `EVALUATOR/METRIC`."""
    return {
        f"{name}/{metric}": text
        for name, evaluator in evaluators.items()
        for metric, text in evaluator.protocol.items()
    }


def summaries(evaluators: Mapping[str, Evaluator], results: Mapping[str, float]) -> list[str]:
    """What evaluators say of their own results, a line each, where they say anything."""
    measured = Measured(results, {})
    lines = [
        (name, evaluator.summary(own))
        for name, evaluator in evaluators.items()
        if (own := measured.own(name))
    ]
    return [f"{name}: {text}" for name, text in lines if text]


def write_results(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    card: Card,
    evaluators: Mapping[str, Evaluator],
    results: Mapping[str, float],
    *,
    step: int | str,
    parameters: int,
    load_path: str,
    comparison: Mapping[str, Mapping[str, float]] | None = None,
) -> pathlib.Path | None:
    """Writes evaluation.json, report.html and, of the first evaluator that has some, a picture.

    `card` is the codec's, `load_path` is what the report gives to `vqlab.load`. `comparison` holds
    other runs' results by a label each, for the plots; see `read_results`. Returns the report's
    path; None on all processes but the first, which alone writes.
    """
    if jax.process_index() != 0 or not evaluators:
        return None
    kept = _kept(workdir, evaluators)
    write_numbers(workdir, results, protocols(evaluators), step=step, kept=kept)
    measured = Measured(results, comparison or {})
    for name, picture in list(pictures(evaluators, results).items())[:1]:
        path = workdir / evaluators[name].picture_file
        with naming(path):
            part = pathlib.Path(f"{path}.part")
            part.write_bytes(picture)
            os.replace(part, path)
    usage = f"import vqlab\n\n{card.noun} = vqlab.load({load_path!r})\n{card.usage}\n"
    return report.write_report(
        workdir,
        title=f"{card.title}: {workdir.name}",
        sections=[*_sections(evaluators, measured), _before(kept), _events(workdir)],
        snippet=usage,
        summary={
            "steps": step,
            "parameters": f"{parameters:,}",
            **card.facts,
            "training images": f"{config.data.name} at {config.image_size} px",
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        },
        config=json.loads(config.to_json()),
    )


def write_numbers(
    workdir: pathlib.Path,
    results: Mapping[str, float],
    protocol: Mapping[str, str],
    *,
    step: int | str,
    kept: Mapping[str, Any] | None = None,
) -> None:
    """Writes evaluation.json: what was measured and how, by "EVALUATOR/METRIC".

    `kept` are entries of the file as it was that stay.
    """
    saved = {name: _entry(value, protocol[name], step) for name, value in results.items()}
    text = json.dumps({"step": step, "results": {**(kept or {}), **saved}}, indent=2)
    write_text(workdir / EVALUATION_FILE, text + "\n")


def _entry(value: float, protocol: str, step: int | str) -> dict[str, Any]:
    """A number in evaluation.json; JSON has no NaN."""
    return {"value": value if math.isfinite(value) else None, "protocol": protocol, "step": step}


def _kept(workdir: pathlib.Path, evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """Numbers of other evaluators that were saved before, each with the step it was taken at."""
    try:
        saved = json.loads((workdir / EVALUATION_FILE).read_text())
        entries = {n: {"step": saved["step"], **entry} for n, entry in saved["results"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none, or cut short
    return {n: entry for n, entry in entries.items() if n.partition("/")[0] not in evaluators}


def _before(kept: Mapping[str, Any]) -> Section:
    """A table of what was measured before by other evaluators; empty where nothing was."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">'
        f"{panels.format_value(math.nan if entry['value'] is None else entry['value'])}</td>"
        f"<td>{escape(str(entry['step']))}</td>"
        f'<td class="protocol">{escape(entry["protocol"])}</td></tr>'
        for name, entry in kept.items()
    )
    head = "<tr><th>metric</th><th>value</th><th>step</th><th>how it was measured</th></tr>"
    return Section("Measured before", f"<table>{head}{rows}</table>" if rows else "")


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
    values = {
        name: math.nan if entry["value"] is None else entry["value"]
        for name, entry in saved.items()
    }
    return names.today(values)


def read_protocols(workdir: str | pathlib.Path) -> dict[str, str]:
    """How each of `read_results` was measured, in one line; by the names that it was saved by."""
    saved = json.loads((pathlib.Path(workdir).expanduser() / EVALUATION_FILE).read_text())
    return {name: entry["protocol"] for name, entry in saved["results"].items()}


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
        if own and (shown := evaluator.pictures(own)):
            buffer = io.BytesIO()
            figures.write_grid_png(buffer, *shown)
            found[name] = buffer.getvalue()
    return found
