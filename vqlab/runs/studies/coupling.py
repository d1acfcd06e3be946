"""The study of semantic-spectrum coupling: power spectra by prefix, a panel for each arm and PCA.

Every arm has the evaluators `spectrum`, and `pca_spectrum` for the panel of principal components.
An arm joins by its config alone: its codec says what its prefixes are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vqlab.evaluation import sliders, sortable, spectrum_figure
from vqlab.evaluation.bjontegaard import mean_and_error
from vqlab.evaluation.names import first
from vqlab.evaluation.panels import Section
from vqlab.evaluation.plane import looks, said
from vqlab.evaluation.sortable import MISSING, Cell
from vqlab.evaluation.spectrum_figure import Spectra
from vqlab.evaluation.study_pictures import gallery
from vqlab.evaluation.study_tables import ArmView
from vqlab.runs.studies import found, training
from vqlab.runs.studies.arms import Arm, Config
from vqlab.runs.studies.kinds import Finished, Shown, StudyKind

TOKENIZER, BASELINE = "spectrum", "pca_spectrum"  # names in config.evals
_COUPLING, _DISTANCE = "semantic_spectrum_coupling", "spectrum_distance"
NUM_PICTURES = 4
_BASELINE_TITLE = "PCA of the pixels"


class CouplingStudy(StudyKind):
    """Whether a code's first parts hold the power of the whole image already, or a part of it."""

    def __init__(self, study: Config, arms: Mapping[str, Arm]):
        super().__init__(study, arms)
        self._prefixes = {name: training.prefixes(arm.config) for name, arm in arms.items()}

    def check(self, arm: Arm) -> None:
        """See `StudyKind`; each arm has the evaluator `spectrum`."""
        super().check(arm)
        if TOKENIZER not in arm.config.evals:
            raise ValueError(f"arm {arm.name!r} has no evals.{TOKENIZER}: nothing to draw")

    def show(self, runs: Sequence[Finished]) -> Shown:
        """A panel for each arm that has a run, of its first seed, and the numbers of all."""
        by_arm = found.by_arm(runs)
        panels = [self._panel(name, own) for name, own in by_arm.items()]
        baseline = [run for run in runs if f"{BASELINE}/{_COUPLING}" in run.results][:1]
        panels += [_panel(_BASELINE_TITLE, "components", BASELINE, baseline)] * len(baseline)
        rows = [
            _row(self._arms[name].label, self._prefixes[name].noun, TOKENIZER, own)
            for name, own in by_arm.items()
        ]
        rows += [_row(_BASELINE_TITLE, "components", BASELINE, baseline)] * len(baseline)
        table = sortable.table(_HEADINGS, rows) if rows else ""
        sections = [
            Section("Power spectra by what is kept", _with_note(spectrum_figure.figure(panels))),
            Section("In numbers", table),
            Section("The same held-out tiles, by every tokenizer", self._gallery(by_arm, runs)),
        ]
        findings = {
            "panels": [{"title": one.title, "kept": one.noun, **_plain(one)} for one in panels]
        }
        assets = (*spectrum_figure.ASSETS, *sortable.ASSETS, "study.css", *sliders.ASSETS)
        return Shown(sections, findings, assets)

    def _gallery(self, by_arm: Mapping[str, list[Finished]], runs: Sequence[Finished]) -> str:
        views = [
            ArmView(
                name,
                self._arms[name].label,
                self._arms[name].family,
                training.noun(self._arms[name].config),
                "",
                found.metrics(own),
                {},
                {},
            )
            for name, own in by_arm.items()
        ]
        families = list(dict.fromkeys(view.family for view in views))
        look = looks(families, "")
        return gallery(views, found.pictures(runs), look, NUM_PICTURES)

    def _panel(self, name: str, own: Sequence[Finished]) -> Spectra:
        noun = self._prefixes[name].noun or "codes"
        return _panel(self._arms[name].label, noun, TOKENIZER, own)


def _panel(title: str, noun: str, evaluator: str, own: Sequence[Finished]) -> Spectra:
    arrays = training.read_arrays(own[0].folder, evaluator)
    coupling = _value(own, f"{evaluator}/{_COUPLING}")
    return Spectra(title, noun, said(coupling) if coupling else "", **arrays)


def _row(title: str, noun: str, evaluator: str, own: Sequence[Finished]) -> list[Cell]:
    """Coupling, and the distance with the first part, half of them, and all."""
    levels = training.read_arrays(own[0].folder, evaluator)["levels"].tolist()
    middle = max(level for level in levels if level <= max(levels[-1] / 2, levels[0]))
    cells = [Cell(title), Cell(f"{levels[-1]:,} {noun}", levels[-1])]
    cells.append(_cell(_value(own, f"{evaluator}/{_COUPLING}")))
    names = [first(level, _DISTANCE) for level in (levels[0], middle)]
    cells += [_cell(_value(own, f"{evaluator}/{name}")) for name in (*names, _DISTANCE)]
    psnr = _value(own, "reconstruction/psnr") if evaluator == TOKENIZER else None
    return [*cells, _cell(psnr), Cell(f"{len(own)}", len(own))]


def _cell(value: tuple[float, float | None] | None) -> Cell:
    return Cell(said(value), value[0]) if value else MISSING


def _value(own: Sequence[Finished], name: str) -> tuple[float, float | None] | None:
    """Mean and error over seeds; None where it was not measured."""
    if not all(name in run.results for run in own):
        return None
    return mean_and_error([run.results[name] for run in own])


def _plain(one: Spectra) -> dict[str, list]:
    """The curves in JSON types."""
    names = ("frequency", "original", "levels", "power")
    return {name: np.asarray(getattr(one, name)).tolist() for name in names}


def _with_note(figure: str) -> str:
    return figure + _NOTE if figure else ""


_HEADINGS = (
    ("tokenizer", ""),
    ("its code", "what is kept first, of how many"),
    ("coupling", "distance from the originals' spectrum, averaged over the numbers kept"),
    ("distance, first", "in powers of ten, with the first part alone"),
    ("half", "with the largest number kept that is at most half"),
    ("all", "with the whole code"),
    ("PSNR", "dB, with the whole code"),
    ("seeds", ""),
)
_NOTE = """
<p class="note">Mean power of held-out images by spatial frequency, light to dark: from the first
part of the code alone to all of it. Where curves climb towards the originals' with every part, the
code stores spectrum and meaning together; where the first one lies on it, the decoder makes the
spectrum and the code is free to tell something else. Coupling is the mean distance from the
originals' curve in powers of ten, over the numbers kept. Of a code that has no order, the principal
components of its codewords are kept.</p>
"""
