"""Power spectra by prefix, a panel for each tokenizer: Semanticist, figure 2a."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from vqlab.evaluation import svg
from vqlab.evaluation.spectra import ROUNDING_POWER

ASSETS = ("study.css", "panels.css")
ORIGINAL = "#d62f2f"
WIDTH, HEIGHT = 400, 300


class Spectra(NamedTuple):
    """A panel.

    noun: of what is kept, in the plural. frequency: [R], in cycles per pixel. original: [R].
    levels: [L], the numbers kept. power: [L, R].
    """

    title: str
    noun: str
    coupling: str
    frequency: np.ndarray
    original: np.ndarray
    levels: np.ndarray
    power: np.ndarray


def figure(panels: Sequence[Spectra]) -> str:
    """All panels on the same axes; light to dark: from the first prefix to the whole code."""
    if not panels:
        return ""
    x, y = _axes(panels)
    body = "".join(_panel(one, x, y) for one in panels)
    return f'<div class="spectra">{body}</div>'


def shade(place: int, count: int) -> str:
    """Light blue to dark."""
    share = place / max(count - 1, 1)
    low, high = (0x9C, 0xC9, 0xEE), (0x08, 0x3B, 0x78)
    mixed = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _axes(panels: Sequence[Spectra]) -> tuple[svg.Scale, svg.Scale]:
    """Powers below what rounding to 8 bits adds lie on the axis."""
    low = min(float(min(one.original.min(), one.power.min())) for one in panels)
    high = max(float(max(one.original.max(), one.power.max())) for one in panels)
    low = max(low, ROUNDING_POWER)
    first = min(float(one.frequency[0]) for one in panels)
    x = svg.Scale(first, 0.5, 52, WIDTH - 10, is_log=True)
    return x, svg.Scale(low / 1.5, high * 1.5, HEIGHT - 50, 24, is_log=True)


def _panel(one: Spectra, x: svg.Scale, y: svg.Scale) -> str:
    parts = [svg.axes(x, y, "cycles per pixel", "power")]
    keys = ""
    for place, (level, power) in enumerate(zip(one.levels.tolist(), one.power, strict=True)):
        colour = shade(place, len(one.levels))
        parts.append(_curve(one.frequency, power, x, y, "curve", colour))
        keys += f'<span><i style="background:{colour}"></i>{level}</span>'
    parts.append(_curve(one.frequency, one.original, x, y, "curve original", ORIGINAL))
    keys += f'<span><i style="background:{ORIGINAL}"></i>original</span>'
    label = f"{one.title}: power over frequency by {one.noun} kept"
    return (
        f'<figure class="cell"><figcaption><b>{escape(one.title)}</b>'
        f"<span>coupling <b>{escape(one.coupling)}</b></span></figcaption>"
        f'<svg class="plot small" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
        f'<div class="keys"><span>{escape(one.noun)}:</span>{keys}</div></figure>'
    )


def _curve(
    frequency: np.ndarray, power: np.ndarray, x: svg.Scale, y: svg.Scale, kind: str, colour: str
) -> str:
    power = np.clip(power, y.low, y.high)
    points = [(x(f), y(p)) for f, p in zip(frequency.tolist(), power.tolist(), strict=True)]
    return svg.line(points, kind, colour)
