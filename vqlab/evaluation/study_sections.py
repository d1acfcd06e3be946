"""Sections of a study's page: the plane with its controls, and how far methods lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from vqlab.evaluation.panels import Section
from vqlab.evaluation.plane import Look, Plane, legend
from vqlab.evaluation.points import CODING_TITLES, RATE_TITLES
from vqlab.evaluation.standing import DISTORTIONS, Gap, Mark
from vqlab.evaluation.study_tables import absent_gaps, gap_table

_READING = """
<p class="note">Large marks are whole codes, with a standard error to each side where there are
several seeds; a thick line joins those of a method that no other of its own beats. Thin lines and
small marks are prefixes of one code. Broken lines are codes rounded to several steps. A dotted line
is what a network reaches whose code is not sent at all. Ideal static codes leave out the table of
frequencies that a decoder needs; bits-back coding reaches a posterior's KL only over many images.
</p>
"""


def plane_section(plane: Plane, look: Mapping[str, Look], marks: Sequence[Mark]) -> Section:
    """The plane of each distortion at each rate, of which one is shown."""
    rates = [r for r in ("entropy", "fixed") if any(r in m.rates and not m.step for m in marks)]
    rates = rates or ["entropy"]
    drawn = {
        (metric, rate): svg
        for metric in DISTORTIONS
        for rate in rates
        if (svg := plane.draw(metric, rate))
    }
    if not drawn:
        return Section("The rate-distortion plane", "")
    metrics = list(dict.fromkeys(metric for metric, _ in drawn))
    controls = _choice("distortion", "metric", {m: DISTORTIONS[m][0] for m in metrics})
    controls += _choice("rate of indices", "rate", {r: RATE_TITLES[r] for r in rates})
    planes = "".join(
        f'<div class="plane" data-metric="{metric}" data-rate="{rate}">{svg}</div>'
        for (metric, rate), svg in drawn.items()
    )
    present = {mark.family for mark in marks}
    shown = legend({family: one for family, one in look.items() if family in present})
    body = f'<div class="controls">{controls}</div>{planes}<div class="legend">{shown}</div>'
    return Section("The rate-distortion plane", body + _READING)


def _choice(title: str, name: str, options: Mapping[str, str]) -> str:
    """Radio buttons, the first one chosen."""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (not place)}>'
        f"{escape(text)}</label>"
        for place, (value, text) in enumerate(options.items())
    )
    return f"<fieldset><legend>{escape(title)}</legend>{buttons}</fieldset>"


def comparison_section(points: Sequence[Gap], curves: Sequence[Gap], anchor: str) -> Section:
    """Gaps in PSNR: of each arm at its own rate, and of curves."""
    heading = f"Beside the {anchor}'s curve"
    single, whole = ([gap for gap in gaps if gap.metric == "psnr"] for gaps in (points, curves))
    if not single and not whole:
        return Section(heading, "")
    text = f"<p>{escape(_summary(single, anchor))}</p>"
    if single:
        text += (
            '<p class="note">Each code at its own rate, above (+) or below the curve at that rate. '
            "Nothing is extrapolated.</p>"
        )
        text += gap_table(single, anchor, "code")
    if whole:
        text += (
            '<p class="note">Bjontegaard deltas of whole curves, by PCHIP over the logarithm of '
            "the rate where both were measured; means and standard errors over seeds.</p>"
        )
        text += gap_table(whole, anchor, "curve")
    return Section(heading, text + absent_gaps([*single, *whole], anchor))


def _summary(gaps: Sequence[Gap], anchor: str) -> str:
    """One sentence on the arms with an ideal static code, for each curve of the anchor."""
    parts = []
    for against in dict.fromkeys(gap.against for gap in gaps):
        own = [gap for gap in gaps if gap.against == against and gap.way.rate == "entropy"]
        measured = [gap for gap in own if gap.quality is not None]
        if not measured:
            continue
        above = sum(gap.quality[0] > 0 for gap in measured)
        below, beyond = len(measured) - above, len(own) - len(measured)
        best = max(measured, key=lambda gap: gap.quality[0])
        name = f"{CODING_TITLES[against.coding]}, {RATE_TITLES[against.rate]}"
        parts.append(
            f"Of {len(own)} codes by an ideal static code, {above} lie above the {anchor}'s curve "
            f"({name}) at equal rate, {below} below, and {beyond} where that curve was not "
            f"measured; the best is {best.of}, by {best.quality[0]:+.2f} dB."
        )
    return " ".join(parts) or f"No code could be compared with the {anchor}'s curve so far."
