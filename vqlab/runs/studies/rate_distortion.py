"""The study of bottlenecks in the rate-distortion plane, against the curve of one family of arms.

Beside what every study has, its config has

  anchor         the family whose curves the others are compared with
  num_pictures   tiles on the page
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqlab.evaluation import plane, sliders, sortable
from vqlab.evaluation.panels import Section
from vqlab.evaluation.points import read_points
from vqlab.evaluation.standing import (
    DISTORTIONS,
    Gap,
    Line,
    Mark,
    Sample,
    average,
    curve_gap,
    point_gap,
    ways,
    whole,
)
from vqlab.evaluation.study_pictures import gallery
from vqlab.evaluation.study_sections import comparison_section, plane_section
from vqlab.evaluation.study_tables import ArmView, arm_table
from vqlab.registry import check_choice
from vqlab.runs.studies import found, training
from vqlab.runs.studies.arms import Arm, Config
from vqlab.runs.studies.kinds import Finished, Shown, StudyKind

EVALUATOR = "rate_distortion"  # whose points are drawn, by its name in config.evals


class RateDistortionStudy(StudyKind):
    """Trained tokenizers, by what their codes cost and what comes back."""

    def __init__(self, study: Config, arms: Mapping[str, Arm]):
        super().__init__(study, arms)
        families = list(dict.fromkeys(arm.family for arm in arms.values()))
        check_choice("anchor", study.anchor, families)
        self._look = plane.looks(families, study.anchor)
        self._nouns = {name: training.noun(arm.config) for name, arm in arms.items()}

    def check(self, arm: Arm) -> None:
        """See `StudyKind`; each arm has the evaluator `rate_distortion`."""
        super().check(arm)
        if EVALUATOR not in arm.config.evals:
            raise ValueError(f"arm {arm.name!r} has no evals.{EVALUATOR}: nothing to draw")

    def show(self, runs: Sequence[Finished]) -> Shown:
        """The plane, the comparison, the table and the pictures."""
        samples = [_sample(run) for run in runs]
        marks = average(samples)
        points, curves = self._gaps(samples)
        views = self._views(runs)
        shown = plane.Plane(
            marks,
            self._look,
            {name: arm.label for name, arm in self._arms.items()},
            self._nouns,
            _ceilings(views, marks),
        )
        sections = [
            plane_section(shown, self._look, marks),
            comparison_section(points, curves, self._study.anchor),
            Section("Arms", arm_table(views, marks, self._look)),
            Section(
                "The same held-out tiles, by every arm",
                gallery(views, found.pictures(runs), self._look, self._study.num_pictures),
            ),
        ]
        findings = {
            "marks": [mark._asdict() for mark in marks],
            "points_against_anchor": [_plain(gap) for gap in points],
            "curves_against_anchor": [_plain(gap) for gap in curves],
        }
        assets = ("study.css", "study.js", *sliders.ASSETS, *sortable.ASSETS)
        return Shown(sections, findings, assets)

    def _gaps(self, samples: Sequence[Sample]) -> tuple[list[Gap], list[Gap]]:
        """(of each arm's whole code, of each curve) for each distortion, against the anchor."""
        family = self._study.anchor
        anchor = [whole(sample) for sample in samples if sample.family == family]
        anchors = [Line(family, anchor, way) for way in ways(_points(anchor))]
        metrics = [m for m in DISTORTIONS if any(m in p.quality for p in _points(samples))]
        points, curves = [], []
        for line in self._single_codes(samples):
            points += [point_gap(line, other, m) for other in anchors for m in metrics]
        for line in self._curves(samples):
            others = [other for other in anchors if (line.name, line.way) != (family, other.way)]
            curves += [curve_gap(line, other, m) for other in others for m in metrics]
        return points, curves

    def _single_codes(self, samples: Sequence[Sample]) -> list[Line]:
        """Every arm but the anchor's with its whole code, at each rate of a code that has no
        steps."""
        lines = []
        for arm in self._arms.values():
            own = [whole(sample) for sample in samples if sample.arm == arm.name]
            if arm.family == self._study.anchor:
                continue
            points = [point for point in _points(own) if not point.step]
            lines += [Line(arm.label, own, way) for way in ways(points)]
        return lines

    def _curves(self, samples: Sequence[Sample]) -> list[Line]:
        """Families of several arms or steps, and arms over what is kept."""
        lines = []
        for family in self._look:
            own = [whole(sample) for sample in samples if sample.family == family]
            for way in ways(_points(own)):
                arms = {s.arm for s in own for p in s.points if p.coding == way.coding}
                steps = {p.step for p in _points(own) if p.coding == way.coding}
                if len(arms) > 1 or len(steps) > 1:
                    lines.append(Line(family, own, way))
        for arm in self._arms.values():
            own = [sample for sample in samples if sample.arm == arm.name]
            if len({point.kept for point in _points(own)}) > 1:
                name = f"{arm.label}, over its {self._nouns[arm.name]}"
                lines += [Line(name, own, way) for way in ways(_points(own))]
        return lines

    def _views(self, runs: Sequence[Finished]) -> list[ArmView]:
        """The arms with at least one run."""
        views = []
        by_arm = found.by_arm(runs)
        for name, arm in self._arms.items():
            if (own := by_arm.get(name)) is None:
                continue
            noun = self._nouns[name]
            reports = {run.job.seed: f"{run.job.folder}/report.html" for run in own}
            metrics, costs = found.metrics(own), _costs(own)
            views.append(
                ArmView(name, arm.label, arm.family, noun, arm.note, metrics, costs, reports)
            )
        return views


def _sample(run: Finished) -> Sample:
    prefix = f"{EVALUATOR}/"
    own = {k.removeprefix(prefix): v for k, v in run.results.items() if k.startswith(prefix)}
    return Sample(run.job.arm.name, run.job.arm.family, run.job.seed, read_points(own))


def _points(samples: Sequence[Sample]):
    return [point for sample in samples for point in sample.points]


def _costs(runs: Sequence[Finished]) -> dict[str, float]:
    """By the names of the table's columns, mean over runs; NaN where nobody counted."""
    costs = [run.record.costs for run in runs]
    columns = {
        "parameters": [cost.get("parameters", math.nan) for cost in costs],
        "gflops": [cost.get("flops", math.nan) / 1e9 for cost in costs],
        "images_per_second": [
            run.results.get("reconstruction/images_per_second", math.nan) for run in runs
        ],
        "trained_per_second": [training.read_speed(run.folder) for run in runs],
        "minutes": [run.record.seconds / 60 for run in runs],
    }
    return {name: float(np.mean(values)) for name, values in columns.items()}


def _ceilings(views: Sequence[ArmView], marks: Sequence[Mark]) -> dict[str, dict[str, float]]:
    """The best that arms reach whose code has no rate of its own, {metric: {family: value}}."""
    sent = {mark.arm for mark in marks if not mark.step}
    ceilings: dict[str, dict[str, float]] = {}
    for metric, (_, _, is_more_better) in DISTORTIONS.items():
        better = max if is_more_better else min
        for view in views:
            value = view.metrics.get(f"reconstruction/{metric}")
            if view.name not in sent and value is not None:
                known = ceilings.setdefault(metric, {})
                known[view.family] = better(value[0], known.get(view.family, value[0]))
    return ceilings


def _plain(gap: Gap) -> dict[str, Any]:
    plain = gap._asdict()
    return plain | {key: plain[key]._asdict() for key in ("way", "against")}
