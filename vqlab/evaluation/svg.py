"""Axes and marks of a plot as SVG, styled by the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_STEPS = (1, 2, 2.5, 5, 10)
_LOG_STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
MIN_LOG_RANGE = 3  # from the first value to the last; below a linear axis is as good


class Scale(NamedTuple):
    """From values to pixels: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies, in pixels."""
        low, high, value = (math.log(x) if self.is_log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 6) -> list[float]:
        """Round numbers on the axis, about so many of them."""
        return _log_ticks(self.low, self.high) if self.is_log else nice(self.low, self.high, count)


def nice(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten in [low, high]; at most count + 1."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _LOG_STEPS:
        found = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        if len(found) >= 4:
            break
    return found


def axes(x: Scale, y: Scale, xlabel: str, ylabel: str) -> str:
    """Grid, ticks and labels."""
    parts = []
    low, high = max(y.start, y.end), min(y.start, y.end)  # pixels count downwards
    for value in y.ticks():
        top = y(value)
        parts.append(_rule(x.start, x.end, top, top, "grid"))
        parts.append(text(x.start - 8, top + 4, f"{value:g}", "tick", anchor="end"))
    for value in x.ticks():
        left = x(value)
        parts.append(_rule(left, left, low, high, "grid"))
        parts.append(text(left, low + 18, f"{value:g}", "tick", anchor="middle"))
    parts.append(text((x.start + x.end) / 2, low + 40, xlabel, "axis", anchor="middle"))
    parts.append(text(x.start - 44, high - 14, ylabel, "axis"))
    parts.append(_rule(x.start, x.end, low, low, "base"))
    return "".join(parts)


def _rule(x1: float, x2: float, y1: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def text(
    x: float, y: float, words: str, kind: str, *, anchor: str = "start", fill: str = ""
) -> str:
    """Words at a place."""
    fill = f' style="fill:{fill}"' if fill else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{fill}>'
        f"{escape(words)}</text>"
    )


def line(points: Sequence[tuple[float, float]], kind: str, colour: str) -> str:
    """A polyline; "" of fewer than two points."""
    if len(points) < 2:
        return ""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{places}" style="stroke:{colour}"/>'


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float, float], str]:
    def draw(x: float, y: float, size: float) -> str:
        places = " ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in corners)
        return f'<polygon points="{places}"/>'

    return draw


def _circle(x: float, y: float, size: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'


def _regular(count: int, size: float) -> Callable[[float, float, float], str]:
    angles = [i * math.tau / count for i in range(count)]
    return _polygon(*[(size * math.sin(a), -size * math.cos(a)) for a in angles])


_CROSS = ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4))

# Told apart without colour too.
SHAPES: tuple[Callable[[float, float, float], str], ...] = (
    _circle,
    _polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    _polygon((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    _polygon((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    _polygon((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
    _regular(5, 1.2),
    _polygon(*_CROSS, *((-x, -y) for x, y in _CROSS)),
    _regular(6, 1.15),
)
