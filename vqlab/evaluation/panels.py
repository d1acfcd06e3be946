"""What evaluators put on the report's page: tables and pictures as HTML, plots over levels."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from vqlab.evaluation import figures, sliders
from vqlab.evaluation.figures import Curve
from vqlab.evaluation.names import BASELINES, COMPONENTS, FIRST, parse, parse_own
from vqlab.models.codec import Units


class Section(NamedTuple):
    """A part of the page: `body` is HTML, and none of it when empty."""

    heading: str
    body: str


class Measured(NamedTuple):
    """All that an evaluator may draw, as {"EVALUATOR/METRIC": value}.

    results: of this run. comparison: the same of other runs, by a label each.
    """

    results: Mapping[str, float]
    comparison: Mapping[str, Mapping[str, float]]

    def own(self, name: str) -> dict[str, float]:
        """{METRIC: value} of the evaluator `name`."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): value
            for key, value in self.results.items()
            if key.startswith(prefix)
        }


def level_curve(results: Mapping[str, float], metric: str, *, of: str) -> Curve:
    """(numbers kept, values) of the evaluator `of` with the first k units, growing in k.

    Whatever the units are, so that a curve of one method can stand beside the other's. Values that
    are not finite are left out.
    """
    return _curve(results, FIRST, metric, of)


def component_curves(results: Mapping[str, float], metric: str, units: Units) -> dict[str, Curve]:
    """Curves of the PCA baseline by label, none where it was not measured.

    k components stand at k. Where a unit has D numbers, k D components stand at k as well: as many
    numbers as in k concepts.
    """
    ks, values = _curve(results, COMPONENTS, metric)
    numbers = units.numbers
    curves = {"PCA, 1 number each" if numbers > 1 else "PCA": (ks, values)}
    if numbers > 1:
        whole = ks % numbers == 0
        curves[f"PCA, {numbers} numbers each"] = (ks[whole] // numbers, values[whole])
    limited = {name: (x[x <= units.total], y[x <= units.total]) for name, (x, y) in curves.items()}
    return {name: curve for name, curve in limited.items() if len(curve[0])}


def level_plot(
    name: str,
    measured: Measured,
    units: Units,
    metric: str,
    *,
    title: str,
    ylabel: str,
    component_metric: str | None = None,
    baselines: Sequence[str] = (),
) -> str:
    """A figure of `metric` over the number kept; "" without values.

    Args:
      name: of the evaluator whose metric it is.
      measured: this run's numbers are a solid line, other runs' dashed.
      units: what is counted.
      metric: last part of the metric's name.
      title, ylabel: of the figure and its axis.
      component_metric: of the PCA baseline, drawn dotted.
      baselines: metrics of the evaluator drawn as level lines; their last part is no label.
    """
    curve = level_curve(measured.results, metric, of=name)
    if not len(curve[0]):
        return ""
    others = {
        label: level_curve(other, metric, of=name) for label, other in measured.comparison.items()
    }
    components = {}
    if component_metric:
        components = component_curves(measured.results, component_metric, units)
    own = measured.own(name)
    png = figures.levels_png(
        {"this run": curve},
        dashed={label: other for label, other in others.items() if len(other[0])},
        dotted=components,
        constants={
            baseline.split("/")[0].replace("_", " "): own[baseline]
            for baseline in baselines
            if math.isfinite(own.get(baseline, math.nan))
        },
        xlabel=f"{units.noun} kept",
        ylabel=ylabel,
    )
    return figure(png, title)


def quality_plots(name: str, measured: Measured, units: Units) -> str:
    """PSNR, SSIM and, where it was measured, LPIPS over the number kept, with baselines."""
    shown = {"psnr": ("PSNR", "dB"), "ssim": ("SSIM (7x7, uint8)", "SSIM"), "lpips": ("LPIPS",) * 2}
    return row(
        level_plot(
            name,
            measured,
            units,
            metric,
            title=f"{title} by number of {units.noun}",
            ylabel=ylabel,
            component_metric=metric,
            baselines=[f"{baseline}/{metric}" for baseline in BASELINES],
        )
        for metric, (title, ylabel) in shown.items()
    )


def usage_plot(results: Mapping[str, float]) -> str:
    """Bars of `usage_g0`, `usage_g1`, ...; "" without any."""
    usage = {
        name.removeprefix("usage_"): value
        for name, value in results.items()
        if re.fullmatch(r"usage_g\d+", name)
    }
    if not usage:
        return ""
    png = figures.bars_png(usage, ylabel="share of codewords", limit=1.0)
    return row([figure(png, "Codebook usage on held-out images")])


def count_label(k: int, noun: str) -> str:
    """1 group, 2 groups."""
    return f"{k} {noun[:-1] if k == 1 else noun}"


def results_table(results: Mapping[str, float], protocol: Mapping[str, str]) -> str:
    """Value and protocol of every metric that is not one of many levels."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{format_value(value)}</td>'
        f'<td class="protocol">{escape(protocol.get(name, ""))}</td></tr>\n'
        for name, value in results.items()
        if not parse_own(name).way
    )
    head = "<tr><th>metric</th><th>value</th><th>how it was measured</th></tr>"
    return f"<table>{head}\n{rows}</table>" if rows else ""


def level_table(results: Mapping[str, float], noun: str) -> str:
    """One row a level or baseline, one column a metric; measured as in the table of results."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in results.items():
        if parse_own(name).way:
            way, metric = name.split("/", 1)
            rows.setdefault(way, {})[metric] = value
    if not rows:
        return ""
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    head = "".join(f"<th>{escape(metric)}</th>" for metric in metrics)
    body = ""
    for way, values in rows.items():
        label = way.replace(COMPONENTS, FIRST).replace("_", " ")
        cells = (format_value(values[m]) if m in values else "" for m in metrics)
        body += f"<tr><td>{escape(label)}</td>"
        body += "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>\n"
    return f"<table><tr><th>{escape(noun)}</th>{head}</tr>\n{body}</table>"


def picture_section(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    headings: Sequence[str],
    levels: Sequence[int] = (),
    noun: str = "",
) -> Section:
    """Originals [n, H, W, 3] beside reconstructions [L, n, H, W, 3], under L + 1 headings.

    With L `levels`, the numbers of units kept, a slider chooses among them; `noun` is what they
    count.
    """
    heading = "Reconstructions of held-out images"
    if not len(originals):
        return Section(heading, "")
    numbers = levels or range(1, len(reconstructions) + 1)
    tiles = ""
    for original, *made in zip(originals, *reconstructions, strict=True):
        first, *others = (
            _captioned(picture, text)
            for picture, text in zip((original, *made), headings, strict=True)
        )
        shown = sliders.steps(dict(zip(numbers, others, strict=True)))
        tiles += f'<div class="tile">{first}{shown}</div>\n'
    body = f'<div class="pictures">{tiles}</div>'
    return Section(heading, sliders.scope(body, levels, noun, can_show_all=True))


def _captioned(picture: np.ndarray, text: str) -> str:
    caption = escape(text).replace("\n", ", ")
    image = image_tag(figures.image_png(picture), text)
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def figure(png: bytes, title: str) -> str:
    """A plot under its title."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{image_tag(png, title)}</figure>"


def row(shown) -> str:
    """Figures beside each other; "" without any."""
    shown = [html for html in shown if html]
    return f'<div class="plots">{"".join(shown)}</div>' if shown else ""


def image_tag(png: bytes, alt: str) -> str:
    """The picture itself inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def format_value(value: float) -> str:
    """Whole numbers as such, others with four significant digits or more before the point."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) >= 10:
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _curve(results: Mapping[str, float], way: str, metric: str, of: str = "") -> Curve:
    named = ((parse(name), value) for name, value in results.items())
    pairs = sorted(
        (name.kept, value)
        for name, value in named
        if (name.way, name.metric) == (way, metric)
        and of in ("", name.evaluator)
        and math.isfinite(value)
    )
    return np.array([k for k, _ in pairs], int), np.array([value for _, value in pairs])
