"""study.json and study.html: what a study has found so far, also while runs are missing."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vqlab.evaluation.documents import document
from vqlab.evaluation.panels import Section
from vqlab.runs.studies.arms import Config, Job, choose_jobs
from vqlab.runs.studies.kinds import Finished, StudyKind
from vqlab.runs.studies.record import read_record
from vqlab.training.disk import write_text

PAGE_FILE, RESULTS_FILE = "study.html", "study.json"


def write_study(
    study: Config, kind: StudyKind, arms: Mapping, workdir: pathlib.Path, command: str
) -> pathlib.Path:
    """Writes both files and returns the page's path.

    `command` is what repeats the study. All runs of the study count that have ended, whoever ran
    them.

    Raises:
      OSError: naming the file.
    """
    jobs = choose_jobs(arms)
    states = {job.folder: _state(workdir / job.folder) for job in jobs}
    runs = [run for job in jobs if (run := kind.read(job, workdir / job.folder)) is not None]
    shown = kind.show(runs)
    facts = _facts(study, kind, jobs, runs)
    saved = {
        "title": study.title,
        "kind": study.kind,
        "facts": facts,
        "runs": [
            {"arm": job.arm.name, "seed": job.seed, "state": states[job.folder]} for job in jobs
        ],
        "results": {run.job.folder: run.results for run in runs},
        "costs": {run.job.folder: run.record.costs for run in runs},
        "seconds": {run.job.folder: run.record.seconds for run in runs},
        "findings": shown.findings,
    }
    write_text(workdir / RESULTS_FILE, json.dumps(_finite(saved), indent=1) + "\n")
    sections = [*shown.sections, _absent(jobs, states), _repeat(study, runs, command)]
    body = "\n".join(
        f"<section><h2>{escape(section.heading)}</h2>{section.body}</section>"
        for section in sections
        if section.body
    )
    page = document(study.title, _head(study, facts) + body, ("page.css", *shown.assets))
    write_text(workdir / PAGE_FILE, page)
    return workdir / PAGE_FILE


def _state(folder: pathlib.Path) -> str:
    record = read_record(folder)
    if record is None:
        return "not run"
    if record.is_finished:
        return "finished"
    return f"failed: {record.error}" if record.error else "begun"


def _facts(
    study: Config, kind: StudyKind, jobs: Sequence[Job], runs: Sequence[Finished]
) -> dict[str, Any]:
    devices = sorted({run.record.device for run in runs if run.record.device})
    return {
        "runs": len(jobs),
        "finished": len(runs),
        "seeds": sorted({job.seed for job in jobs}),
        "data": kind.describe_data(),
        "steps": sorted({job.arm.config.num_steps for job in jobs}),
        "device": "; ".join(devices),
        "minutes": sum(run.record.seconds for run in runs) / 60,
    }


def _head(study: Config, facts: Mapping[str, Any]) -> str:
    status = [f"{facts['finished']} of {facts['runs']} runs"]
    status.append(f"{len(facts['seeds'])} seed{'s' * (len(facts['seeds']) != 1)}")
    status += [f"{_range(facts['steps'])} steps each", f"data: {facts['data']}"]
    status += [facts["device"]] * bool(facts["device"])
    status.append(f"{facts['minutes']:.0f} minutes in all")
    return (
        f"<h1>{escape(study.title)}</h1>"
        f'<p class="lead">{escape(" ".join(study.question.split()))}</p>'
        f'<p class="status">{escape(" · ".join(status))}</p>'
    )


def _range(numbers: Sequence[int]) -> str:
    """Of numbers in order: "700", or "700 to 3,000"."""
    return " to ".join(f"{number:,}" for number in dict.fromkeys((numbers[0], numbers[-1])))


def _absent(jobs: Sequence[Job], states: Mapping[str, str]) -> Section:
    """Runs without results."""
    absent = [
        f"<li>{escape(job.label)}: {escape(states[job.folder])}</li>"
        for job in jobs
        if states[job.folder] != "finished"
    ]
    return Section("What is missing", f"<ul>{''.join(absent)}</ul>" if absent else "")


def _repeat(study: Config, runs: Sequence[Finished], command: str) -> Section:
    protocols = {
        name.rpartition("/")[2]: text for run in runs for name, text in run.protocols.items()
    }
    lines = "".join(f"<li>{escape(f'{name}: {text}')}</li>" for name, text in protocols.items())
    text = json.dumps(json.loads(study.to_json()), indent=1)
    return Section(
        "How this was made",
        f"<pre>{escape(command)}</pre>"
        "<p>Given again, the command goes on where it stopped, and runs what is missing.</p>"
        f"<details><summary>How each number was measured</summary>"
        f'<ul class="note">{lines}</ul></details>'
        f"<details><summary>The study's config</summary><pre>{escape(text)}</pre></details>",
    )


def _finite(tree: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree
