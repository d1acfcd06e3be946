"""The rate-distortion plane as SVG: methods by colour and shape, every point with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from vqlab.evaluation import svg
from vqlab.evaluation.label_places import Box, LabelPlaces
from vqlab.evaluation.panels import count_label
from vqlab.evaluation.points import CODING_TITLES, RATE_TITLES
from vqlab.evaluation.standing import DISTORTIONS, Mark, Value

WIDTH, HEIGHT = 940, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 120, 36, 56

INK = "var(--ink)"
# Okabe and Ito's colours, which colour-blind readers tell apart, darkened where they were too pale
# on white, and three more.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b8487f",
    "#c98a00",
    "#3f9bd0",
    "#7a5ab5",
    "#8a6a2f",
    "#7d8794",
)


class Look(NamedTuple):
    """How a family is drawn: its colour, and the number of its shape in `svg.SHAPES`."""

    colour: str
    shape: int

    def swatch(self) -> str:
        """Its mark alone, for legends and tables."""
        mark = svg.SHAPES[self.shape](7, 7, 4.6)
        return f'<svg class="swatch" viewBox="0 0 14 14" style="fill:{self.colour}">{mark}</svg>'


def looks(families: Sequence[str], anchor: str) -> dict[str, Look]:
    """One for each family, in their order; the anchor is drawn in ink."""
    found, number = {}, 0
    for family in families:
        if family == anchor:
            found[family] = Look(INK, 3)
            continue
        shape = number % (len(svg.SHAPES) - 1)
        found[family] = Look(COLOURS[number % len(COLOURS)], shape + (shape >= 3))
        number += 1
    return found


class Shown(NamedTuple):
    """A mark at its place: what the axes say, and which of its rates it stands at."""

    mark: Mark
    rate: str
    x: Value
    y: Value


def select(marks: Sequence[Mark], metric: str, preferred: str) -> list[Shown]:
    """Each mark at one rate: the preferred one where it has it, otherwise its own."""
    shown = []
    for mark in marks:
        rate = preferred if preferred in mark.rates else next(iter(mark.rates), "")
        if rate and metric in mark.quality and mark.rates[rate][0] > 0:
            shown.append(Shown(mark, rate, mark.rates[rate], mark.quality[metric]))
    return shown


class Plane:
    """Draws the marks of all arms, for one distortion after the other.

    Args:
      marks: averaged over seeds.
      look: of each family, in the order in which they are drawn.
      labels: of each arm.
      nouns: of each arm, what its units are.
      ceilings: {metric: {family: what it reaches without any rate}}, drawn as level lines.
    """

    def __init__(
        self,
        marks: Sequence[Mark],
        look: Mapping[str, Look],
        labels: Mapping[str, str],
        nouns: Mapping[str, str],
        ceilings: Mapping[str, Mapping[str, float]],
    ):
        self._marks, self._look = marks, look
        self._labels, self._nouns, self._ceilings = labels, nouns, ceilings

    def draw(self, metric: str, preferred: str) -> str:
        """The plane of one of `DISTORTIONS`; marks that have several rates stand at the preferred.

        "" without a mark.
        """
        shown = select(self._marks, metric, preferred)
        if not shown:
            return ""
        title, unit, is_more_better = DISTORTIONS[metric]
        ceilings = self._ceilings.get(metric, {})
        x, y = _scales(shown, list(ceilings.values()), is_more_better)
        inside = [one for one in shown if x.holds(one.x[0]) and y.holds(one.y[0])]
        parts = [svg.axes(x, y, "bits per pixel", f"{title}, {unit}" if unit else title)]
        places = LabelPlaces(Box(_LEFT, _TOP - 14, WIDTH, HEIGHT - _BOTTOM))
        for one in inside:
            places.take(x(one.x[0]), y(one.y[0]), 5 if one.mark.is_whole else 2)
        for family, look in self._look.items():
            own = [one for one in inside if one.mark.family == family]
            body = _lines(own, x, y, look.colour, 1 if is_more_better else -1)
            body += "".join(self._mark(one, x, y, metric) for one in own)
            if (value := ceilings.get(family)) is not None:
                body += _ceiling(x, y, family, value, look.colour, places)
            body += _label(own, x, y, look.colour, places)
            parts.append(f'<g class="family" data-family="{escape(family)}">{body}</g>')
        if cut := len(shown) - len(inside):
            words = f"{cut} point{'s' * (cut > 1)} outside of these axes"
            parts.append(svg.text(x.end, HEIGHT - 16, words, "tick", anchor="end"))
        return (
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)} over bits per pixel">{"".join(parts)}</svg>'
        )

    def _mark(self, one: Shown, x: svg.Scale, y: svg.Scale, metric: str) -> str:
        """Shape, errors over seeds, and what is said under the pointer."""
        look, mark = self._look[one.mark.family], one.mark
        left, top = x(one.x[0]), y(one.y[0])
        is_minor = not mark.is_whole or mark.step
        shape = svg.SHAPES[look.shape](left, top, 2.8 if is_minor else 4.8)
        kind = "mark minor" if is_minor else "mark"
        errors = "" if is_minor else _errors(one, x, y, look.colour)
        tip = escape(self._tip(one, metric))
        return (
            f'{errors}<g class="{kind}" tabindex="0" style="--c:{look.colour}">{shape}'
            f'<circle class="hit" cx="{left:.1f}" cy="{top:.1f}" r="9"/><title>{tip}</title></g>'
        )

    def _tip(self, one: Shown, metric: str) -> str:
        mark, (title, unit, _) = one.mark, DISTORTIONS[metric]
        lines = [self._labels[mark.arm], CODING_TITLES[mark.coding]]
        if mark.step:
            lines[1] += f" to {mark.step:g} of their spread"
        if mark.kept and self._nouns[mark.arm]:
            lines[1] += f", {count_label(mark.kept, self._nouns[mark.arm])}"
        lines.append(f"{title} {said(one.y)} {unit}".rstrip())
        lines += [
            f"{said(value)} bits per pixel ({RATE_TITLES[rate]})"
            for rate, value in mark.rates.items()
        ]
        lines.append(f"{mark.num_seeds} seed{'s' * (mark.num_seeds > 1)}")
        return "\n".join(lines)


def said(value: Value) -> str:
    """A mean with its standard error."""
    mean, error = value
    digits = 3 if abs(mean) < 10 else 2
    text = f"{mean:.{digits}f}"
    return text if error is None else f"{text} ± {error:.{digits}f}"


def legend(look: Mapping[str, Look]) -> str:
    """Families with their marks; a page's script lets one of them stand out."""
    return "".join(
        f'<button type="button" data-family="{escape(family)}">{one.swatch()}{escape(family)}'
        "</button>"
        for family, one in look.items()
    )


def _scales(
    shown: Sequence[Shown], ceilings: Sequence[float], is_more_better: bool
) -> tuple[svg.Scale, svg.Scale]:
    """Axes that hold all whole codes that are not rounded, and of the rest what lies near them."""
    first = [one for one in shown if one.mark.is_whole and not one.mark.step] or shown
    values = [one.y[0] for one in first] + list(ceilings)
    low, high = min(values), max(values)
    room = 0.2 * (high - low) or 1.0
    worse, better = (room, room / 4) if is_more_better else (room / 4, room)
    low, high = low - worse, high + better
    rates = [one.x[0] for one in shown if low <= one.y[0] <= high]
    least, most = min(rates) / 1.12, max(rates) * 1.12
    is_log = most / least >= svg.MIN_LOG_RANGE
    ends = (HEIGHT - _BOTTOM, _TOP) if is_more_better else (_TOP, HEIGHT - _BOTTOM)
    # What is better lies higher.
    return svg.Scale(least, most, _LEFT, WIDTH - _RIGHT, is_log), svg.Scale(low, high, *ends)


def _lines(own: Sequence[Shown], x: svg.Scale, y: svg.Scale, colour: str, sign: int) -> str:
    """Within an arm over what is kept, thin; over a family's whole codes that no other beats."""
    arms: dict[tuple[str, str], list[Shown]] = {}
    for one in own:
        if not one.mark.step:
            arms.setdefault((one.mark.arm, one.mark.coding), []).append(one)
    parts = [svg.line(_places(arm, x, y), "prefix", colour) for arm in arms.values()]
    for curve in _curves(own).values():
        best: list[Shown] = []
        for one in sorted(curve, key=lambda one: one.x[0]):
            if not best or sign * one.y[0] > sign * best[-1].y[0]:
                best.append(one)
        kind = "curve rounded" if curve[0].mark.step else "curve"
        parts.append(svg.line(_places(best, x, y), kind, colour))
    return "".join(parts)


def _curves(own: Sequence[Shown]) -> dict[str, list[Shown]]:
    """{coding: a family's whole codes that are sent so}."""
    curves: dict[str, list[Shown]] = {}
    for one in own:
        if one.mark.is_whole:
            curves.setdefault(one.mark.coding, []).append(one)
    return curves


def _places(shown: Sequence[Shown], x: svg.Scale, y: svg.Scale) -> list[tuple[float, float]]:
    return [(x(one.x[0]), y(one.y[0])) for one in sorted(shown, key=lambda one: one.x[0])]


def _errors(one: Shown, x: svg.Scale, y: svg.Scale, colour: str) -> str:
    """A standard error to each side, in both directions."""
    (rate, rate_error), (quality, error) = one.x, one.y
    left, top = x(rate), y(quality)
    parts = []
    if error:
        ends = [(left, y(quality + sign * error)) for sign in (-1, 1)]
        parts.append(svg.line(ends, "error", colour))
    if rate_error and rate_error < rate:
        ends = [(x(rate + sign * rate_error), top) for sign in (-1, 1)]
        parts.append(svg.line(ends, "error", colour))
    return "".join(parts)


def _ceiling(
    x: svg.Scale, y: svg.Scale, family: str, value: float, colour: str, places: LabelPlaces
) -> str:
    top = y(value)
    line = svg.line([(x.start, top), (x.end, top)], "ceiling", colour)
    left, base = places.place(f"{family}, no rate", x.start + 2, top)
    return line + svg.text(left, base, f"{family}, no rate", "label", fill=colour)


def _label(
    own: Sequence[Shown], x: svg.Scale, y: svg.Scale, colour: str, places: LabelPlaces
) -> str:
    """The family's name beside the end of each of its curves."""
    parts = []
    curves = _curves(own)
    for curve in curves.values():
        last = max(curve, key=lambda one: one.x[0])
        words = last.mark.family
        if len(curves) > 1 or last.mark.step:
            words += f", {'rounded' if last.mark.step else RATE_TITLES[last.rate].split(' ')[0]}"
        left, base = places.place(words, x(last.x[0]), y(last.y[0]))
        parts.append(svg.text(left, base, words, "label", fill=colour))
    return "".join(parts)
