"""A study's tables: its arms with what they reach and cost, and how far they lie from an anchor."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from vqlab.evaluation import names
from vqlab.evaluation.panels import format_value
from vqlab.evaluation.plane import Look, said
from vqlab.evaluation.points import CODING_TITLES, RATE_TITLES
from vqlab.evaluation.sortable import MISSING, Cell, table
from vqlab.evaluation.standing import DISTORTIONS, Gap, Mark, Value


class ArmView(NamedTuple):
    """What a page knows of an arm.

    noun: of its units. metrics: {"EVALUATOR/METRIC": mean and error over seeds}. costs: mean over
    seeds; see `_COSTS`. reports: {seed: address of its report}.
    """

    name: str
    label: str
    family: str
    noun: str
    note: str
    metrics: Mapping[str, Value]
    costs: Mapping[str, float]
    reports: Mapping[int, str]


# Name -> heading, what it means, how it is written.
_COSTS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "parameters": ("parameters", "of the whole tokenizer", lambda x: f"{x:,.0f}"),
    "gflops": (
        "GFLOP an image",
        "products and convolutions of encoding and decoding one evaluated image",
        lambda x: f"{x:.2f}",
    ),
    "images_per_second": (
        "images/s",
        "evaluated images encoded and decoded per second",
        lambda x: f"{x:.1f}",
    ),
    "trained_per_second": ("trained images/s", "median over training", lambda x: f"{x:.0f}"),
    "minutes": (
        "minutes",
        "wall time of a run: training, evaluation, export",
        lambda x: f"{x:.1f}",
    ),
}
_USAGE = re.compile(r"reconstruction/usage_g\d+")
# Metrics of these evaluators have columns or curves of their own.
_KNOWN = re.compile(r"(reconstruction|rate_distortion)/.*")


def arm_table(arms: Sequence[ArmView], marks: Sequence[Mark], look: Mapping[str, Look]) -> str:
    """One row an arm, one column a quantity; it is sorted by a click on a heading."""
    own = {mark.arm: mark for mark in marks if mark.is_whole and not mark.step}
    shown = [m for m in DISTORTIONS if any(m in mark.quality for mark in own.values())]
    others = list(dict.fromkeys(name for arm in arms for name in arm.metrics if _is_other(name)))
    headings = [
        ("arm", ""),
        ("bits/pixel, fixed", "every index at its fixed length"),
        ("bits/pixel, ideal", "entropy of the indices; of a posterior its KL"),
        *((_heading(metric), "of what was sent at this rate") for metric in shown),
        ("PSNR, not sent", "of what the decoder is given without any rate: latents, or means"),
        ("usage", "share of codewords chosen at least once, mean over groups"),
        *((name.replace("/", " "), "") for name in others),
        *((heading, help) for heading, help, _ in _COSTS.values()),
        ("seeds", ""),
        ("reports", "of each seed"),
    ]
    rows = []
    for arm in arms:
        mark = own.get(arm.name)
        rates = mark.rates if mark else {}
        quality = mark.quality if mark else {}
        direct = arm.metrics.get("reconstruction/psnr")
        rows.append(
            [
                _name(arm, look),
                _value(rates.get("fixed")),
                _value(rates.get("entropy", rates.get("kl"))),
                *(_value(quality.get(metric)) for metric in shown),
                # What is sent as indices is what the decoder is given.
                MISSING if "fixed" in rates else _value(direct),
                _value(_usage(arm)),
                *(_value(arm.metrics.get(name)) for name in others),
                *(_cost(arm.costs.get(name), text) for name, (*_, text) in _COSTS.items()),
                Cell(str(len(arm.reports)), len(arm.reports)),
                _links(arm),
            ]
        )
    return table(headings, rows)


def _is_other(name: str) -> bool:
    return not _KNOWN.fullmatch(name) and not names.parse(name).way


def _heading(metric: str) -> str:
    title, unit, _ = DISTORTIONS[metric]
    return f"{title}, {unit}" if unit else title


def _name(arm: ArmView, look: Mapping[str, Look]) -> Cell:
    note = f' <span class="note">{escape(arm.note)}</span>' if arm.note else ""
    return Cell(f"{look[arm.family].swatch()} {escape(arm.label)}{note}")


def _value(value: Value | None) -> Cell:
    if value is None or not math.isfinite(value[0]):
        return MISSING
    return Cell(said(value), value[0])


def _usage(arm: ArmView) -> Value | None:
    """Mean over groups; the error is that of the mean, were groups independent of each other."""
    found = [
        v for name, v in arm.metrics.items() if re.fullmatch(r"reconstruction/usage_g\d+", name)
    ]
    return (sum(mean for mean, _ in found) / len(found), None) if found else None


def _cost(value: float | None, text: Callable[[float], str]) -> Cell:
    if value is None or not math.isfinite(value):
        return MISSING
    return Cell(text(value), value)


def _links(arm: ArmView) -> Cell:
    return Cell(
        " ".join(f'<a href="{escape(href)}">{seed}</a>' for seed, href in arm.reports.items())
    )


def gap_table(gaps: Sequence[Gap], anchor: str, first: str) -> str:
    """One row a method and rate, one pair of columns for each curve of the anchor.

    `first` is the heading of the first column. Where nothing could be compared the cell says why.
    """
    against = list(dict.fromkeys(gap.against for gap in gaps))
    has_rates = any(gap.rate is not None for gap in gaps)
    headings = [(first, ""), ("sent as", "")]
    for way in against:
        curve = f"{anchor}, {CODING_TITLES[way.coding]}"
        headings.append((f"dB above {curve}", "mean difference at equal rate"))
        if has_rates:
            headings.append((f"rate beside {curve}", "mean difference at equal quality"))
    headings.append(("bits/pixel", "rates of the comparison"))
    headings.append(("seeds", "in which there was something to compare"))
    rows: dict[tuple, dict] = {}
    for gap in gaps:
        rows.setdefault((gap.of, gap.way), {})[gap.against] = gap
    made = []
    for (name, way), found in rows.items():
        cells = [Cell(escape(name)), Cell(f"{CODING_TITLES[way.coding]}, {RATE_TITLES[way.rate]}")]
        for other in against:
            cells += _gap_cells(found.get(other), has_rates)
        cells.append(_interval(found.values()))
        seeds = max((gap.num_seeds for gap in found.values()), default=0)
        cells.append(Cell(str(seeds), seeds))
        made.append(cells)
    return table(headings, made) if made else ""


def _gap_cells(gap: Gap | None, has_rates: bool) -> list[Cell]:
    if gap is None:
        return [MISSING] * (1 + has_rates)
    note = gap.note or "the curves share qualities, but no rates"
    absent = f'<abbr class="note" title="{escape(note)}">{_short(gap.note)}</abbr>'
    cells = [Cell(absent, math.nan) if gap.quality is None else _number(gap.quality)]
    if has_rates:
        cells.append(MISSING if gap.rate is None else _number(gap.rate, 0, " %"))
    return cells


def _number(value: Value, digits: int = 2, unit: str = "") -> Cell:
    return Cell(_signed(value, digits) + unit, value[0])


def _short(note: str) -> str:
    return "no overlap" if not note or "bits per pixel" in note else escape(note)


def absent_gaps(gaps: Sequence[Gap], anchor: str) -> str:
    """What could not be compared, and why, folded; "" where all could."""
    lines = [
        f"<li>{escape(gap.of)} ({RATE_TITLES[gap.way.rate]}) beside {escape(anchor)}, "
        f"{CODING_TITLES[gap.against.coding]}: {escape(gap.note)}</li>"
        for gap in gaps
        if gap.note
    ]
    if not lines:
        return ""
    text = f"{len(lines)} comparisons have no overlap: nothing is extrapolated"
    return f'<details class="note"><summary>{text}</summary><ul>{"".join(lines)}</ul></details>'


def _signed(value: Value, digits: int = 2) -> str:
    mean, error = value
    text = f"{mean:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text if error is None else f"{text} ± {error:.{digits}f}"


def _interval(gaps) -> Cell:
    found = [gap.interval for gap in gaps if gap.interval is not None]
    if not found:
        return MISSING
    low, high = min(a for a, _ in found), max(b for _, b in found)
    text = format_value(low) if low == high else f"{format_value(low)} to {format_value(high)}"
    return Cell(text, low)
