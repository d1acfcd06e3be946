"""Tokens and codewords on two axes, and what became of them over the steps: a grid of panels.

One column for each number of channels and of codes, one row for each way of making codebooks, as in
MGVQ's figure 1, whose four cases are the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from vqlab.evaluation import svg
from vqlab.evaluation.panels import format_value
from vqlab.evaluation.plane import COLOURS

ASSETS = ("study.css", "panels.css")
WIDTH, HEIGHT = 300, 214
_CURVE_HEIGHT = 176
_EDGE = 3.2  # standard deviations of the first axis that a panel shows to each side
USED, UNUSED, TOKENS = COLOURS[0], COLOURS[1], "var(--faint)"


class Fitted(NamedTuple):
    """A codebook at its end, and how it came there.

    tokens, codewords: [n, 2] and [K, 2] on the axes of the figure. is_used: [K], by any token.
    steps: [T]. numbers: {metric: [T]}, those of `codebook_use.PROTOCOL`.
    """

    tokens: np.ndarray
    codewords: np.ndarray
    is_used: np.ndarray
    steps: np.ndarray
    numbers: Mapping[str, np.ndarray]


class Case(NamedTuple):
    """A column: `channels` of a token, `size` codes; title for people."""

    channels: int
    size: int
    title: str


Grid = Mapping[tuple[str, Case], Fitted]  # by row and column


def scatter_grid(grid: Grid, rows: Sequence[str], cases: Sequence[Case]) -> str:
    """Where codewords lie among tokens."""
    heads = "".join(
        f'<div class="head"><b>{escape(case.title)}</b><br>'
        f"{case.channels} channels, {case.size:,} codes</div>"
        for case in cases
    )
    body = "".join(
        f'<div class="name">{escape(row)}</div>'
        + "".join(_cell(grid.get((row, case)), case) for case in cases)
        for row in rows
    )
    return (
        f'<div class="panels" style="--columns:{len(cases)}"><div></div>{heads}{body}</div>'
        + _legend(
            {
                "a code that held-out tokens have": USED,
                "one that none has": UNUSED,
                "tokens": TOKENS,
            }
        )
    )


def curve_grid(
    grid: Grid, rows: Sequence[str], cases: Sequence[Case], titles: Mapping[str, str]
) -> str:
    """The numbers over the steps; `titles` of the metrics that are drawn."""
    colours = dict(zip(rows, (UNUSED, USED, COLOURS[2], *COLOURS[3:]), strict=False))
    body = ""
    for metric, title in titles.items():
        body += f'<div class="name">{escape(title)}</div>'
        for case in cases:
            shown = {row: grid[row, case] for row in rows if (row, case) in grid}
            body += f'<figure class="cell">{_curves(shown, metric, case, colours)}</figure>'
    heads = "".join(f'<div class="head"><b>{escape(case.title)}</b></div>' for case in cases)
    return (
        f'<div class="panels" style="--columns:{len(cases)}"><div></div>{heads}{body}</div>'
        + _legend(colours)
    )


def _cell(fitted: Fitted | None, case: Case) -> str:
    if fitted is None:
        return '<figure class="cell"></figure>'
    usage, perplexity, distortion = (
        fitted.numbers[name][-1] for name in ("usage", "perplexity", "distortion")
    )
    words = (
        f'<span class="narrow">{case.channels} channels, {case.size:,} codes<br></span>'
        f"<b>{usage:.0%}</b> used · perplexity {format_value(round(perplexity, 1))} · "
        f"<b>{distortion:.1%}</b> lost"
    )
    return f'<figure class="cell">{_scatter(fitted, case)}<figcaption>{words}</figcaption></figure>'


def _scatter(fitted: Fitted, case: Case) -> str:
    """Dots: tokens below, unused codewords, used ones on top."""
    tall = _EDGE * HEIGHT / WIDTH
    x, y = svg.Scale(-_EDGE, _EDGE, 0, WIDTH), svg.Scale(-tall, tall, HEIGHT, 0)
    size = 5.2 if len(fitted.codewords) <= 128 else 2.9
    parts = [
        _dots(fitted.tokens, x, y, 1.7, TOKENS),
        _dots(fitted.codewords[~fitted.is_used], x, y, size, UNUSED),
        _dots(fitted.codewords[fitted.is_used], x, y, size, USED),
    ]
    label = f"{case.channels} channels, {case.size} codes: tokens and codewords"
    return (
        f'<svg class="plot scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _dots(points: np.ndarray, x: svg.Scale, y: svg.Scale, size: float, colour: str) -> str:
    """Round dots in one path; what lies outside of the axes is left out."""
    places = "".join(
        f"M{x(a):.1f} {y(b):.1f}h0" for a, b in points.tolist() if x.holds(a) and y.holds(b)
    )
    style = f"stroke:{colour};stroke-width:{size}"
    return f'<path class="dots" d="{places}" style="{style}"/>' if places else ""


def _curves(
    shown: Mapping[str, Fitted], metric: str, case: Case, colours: Mapping[str, str]
) -> str:
    if not shown:
        return ""
    last = max(fitted.steps[-1] for fitted in shown.values())
    x = svg.Scale(0, last, 44, WIDTH - 8)
    y = _axis(metric, case, [fitted.numbers[metric] for fitted in shown.values()])
    parts = [svg.axes(x, y, "step", "")]
    for row, fitted in shown.items():
        values = np.clip(fitted.numbers[metric], y.low, y.high)
        points = zip(map(x, fitted.steps.tolist()), map(y, values.tolist()), strict=True)
        parts.append(svg.line(list(points), "curve", colours[row]))
    return (
        f'<svg class="plot small" viewBox="0 0 {WIDTH} {_CURVE_HEIGHT}" role="img" '
        f'aria-label="{escape(metric)} over steps">{"".join(parts)}</svg>'
    )


def _axis(metric: str, case: Case, values: Sequence[np.ndarray]) -> svg.Scale:
    """A share from 0 to 1; a perplexity from 1 to all codes, and an error, by powers of ten."""
    ends = _CURVE_HEIGHT - 44, 8
    if metric == "perplexity":
        return svg.Scale(1, case.size * 1.1, *ends, is_log=True)
    if metric == "distortion":
        low = max(min(float(np.min(one)) for one in values), 1e-6)
        # Without the start, which lies off as far as chance has it.
        high = max(float(np.max(one[1:])) for one in values)
        return svg.Scale(low / 1.15, max(high, 1.5 * low) * 1.15, *ends, is_log=True)
    return svg.Scale(0, 1, *ends)


def _legend(colours: Mapping[str, str]) -> str:
    entries = "".join(
        f'<span><i style="background:{colour}"></i>{escape(text)}</span>'
        for text, colour in colours.items()
    )
    return f'<div class="keys">{entries}</div>'
