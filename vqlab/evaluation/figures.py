"""Pictures of a run as PNG bytes: curves over steps and levels, spectra, bars, grids of images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vqlab.evaluation import names
from vqlab.evaluation.image_metrics import to_uint8

COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#64748b")
_STYLE = {
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "grid.color": "#e2e8f0",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
_SIZE = (5.2, 3.0)  # inches
_DPI = 144

Curve = tuple[np.ndarray, np.ndarray]


def read_metrics(path: str | Path) -> dict[str, Curve]:
    """metrics.jsonl -> {name: (steps [N], values [N])}; {} when the file is absent.

    Each line is {"step": int, name: number or null, ...}. Nulls and a last line cut short by a kill
    are left out; names of an earlier version are today's.
    """
    path = Path(path)
    if not path.exists():
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        step = line.pop("step")
        for name, value in names.today(line).items():
            if value is not None:
                points.setdefault(name, []).append((step, value))
    return {
        name: (np.array([step for step, _ in pairs]), np.array([value for _, value in pairs]))
        for name, pairs in points.items()
    }


def curves_png(curves: Mapping[str, Curve], *, ylabel: str, log: bool = False) -> bytes:
    """One line over steps for each label."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for label, (steps, values) in curves.items():
            # A curve of few points, as evaluations give, would not show as a line alone.
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 20 else "", ms=3)
        axes.set(xlabel="step", ylabel=ylabel, yscale="log" if log else "linear")
        axes.legend(fontsize=8)
        return _png(figure)


def levels_png(
    lines: Mapping[str, Curve],
    *,
    xlabel: str,
    ylabel: str,
    dashed: Mapping[str, Curve] | None = None,
    dotted: Mapping[str, Curve] | None = None,
    constants: Mapping[str, float] | None = None,
) -> bytes:
    """One line over the numbers kept for each label, and level lines for `constants`.

    The axis is linear where the numbers of `lines`, which alone are marked on it, are consecutive;
    otherwise it is in powers of two.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for curves, style in ((lines, "-"), (dashed or {}, "--"), (dotted or {}, ":")):
            for label, (kept, values) in curves.items():
                axes.plot(kept, values, style, label=label, marker="o", ms=3)
        for i, (label, value) in enumerate((constants or {}).items()):
            axes.axhline(value, color="#64748b", lw=1, ls=("-.", (0, (1, 3)))[i % 2], label=label)
        ticks = sorted({int(k) for kept, _ in lines.values() for k in kept})
        if ticks and ticks[-1] - ticks[0] >= len(ticks):
            if ticks[0] > 0:
                axes.set_xscale("log", base=2)
            else:
                axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend(fontsize=8)
        return _png(figure)


def spectra_png(original: Curve, levels: Mapping[str, Curve]) -> bytes:
    """Power over frequency on logarithmic axes: the original in red, the levels light to dark."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colormaps["Blues"](np.linspace(0.35, 1, len(levels)))
        for (label, curve), colour in zip(levels.items(), colours, strict=True):
            axes.loglog(*curve, label=label, color=colour)
        axes.loglog(*original, label="original", color="#dc2626", ls="--")
        axes.set(xlabel="frequency (cycles per pixel)", ylabel="power")
        axes.legend(fontsize=7)
        return _png(figure)


def bars_png(bars: Mapping[str, float], *, ylabel: str, limit: float) -> bytes:
    """One bar a label, on an axis from 0 to `limit`."""
    with matplotlib.rc_context(_STYLE | {"axes.grid.axis": "y"}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        drawn = axes.bar(list(bars), list(bars.values()), width=0.6, color=COLOURS[0])
        axes.bar_label(drawn, fmt="{:.3g}", fontsize=8)
        axes.set(ylabel=ylabel, ylim=(0, limit * 1.08))
        axes.set_axisbelow(True)
        return _png(figure)


def image_png(image: np.ndarray, min_width: int = 1) -> bytes:
    """[H, W, 3] in [-1, 1], clipped and floored to uint8.

    Pixels are enlarged by the smallest whole factor that gives `min_width`.
    """
    scale = -(-min_width // image.shape[1])
    size = image.shape[1] * scale, image.shape[0] * scale
    buffer = io.BytesIO()
    _to_image(image).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


MIN_COLUMN = 96  # pixels that a heading needs


def write_grid_png(
    path: str | Path | BinaryIO,
    originals: np.ndarray,
    reconstructions: np.ndarray,
    headings: Sequence[str],
    *,
    scale: int = 0,
) -> None:
    """Writes originals beside what the first 1..G groups make of them, one image a row.

    Args:
      path: the PNG file, by name or open.
      originals: [n, H, W, 3] in [-1, 1].
      reconstructions: [G, n, H, W, 3].
      headings: G + 1 texts over the columns, the original's first; "\\n" starts a new line.
      scale: whole factor by which pixels are enlarged; 0: as far as the headings need.

    Raises:
      ValueError: shapes or the number of headings do not fit together.
    """
    if originals.shape != reconstructions.shape[1:]:
        raise ValueError(
            f"originals {originals.shape} and reconstructions {reconstructions.shape} do not fit"
        )
    columns = [originals, *reconstructions]
    if len(headings) != len(columns):
        raise ValueError(f"{len(headings)} headings for {len(columns)} columns")
    scale = scale or -(-MIN_COLUMN // originals.shape[2])
    height, width = (side * scale for side in originals.shape[1:3])
    gap, text_size = 6, max(11, min(width // 9, 20))
    top = gap + max(heading.count("\n") + 1 for heading in headings) * (text_size + 6)
    size = (gap + len(columns) * (width + gap), top + len(originals) * (height + gap))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=text_size)
    for column, (heading, images) in enumerate(zip(headings, columns, strict=True)):
        left = gap + column * (width + gap)
        draw.multiline_text(
            (left + width / 2, gap), heading, fill="#0f172a", font=font, anchor="ma", align="center"
        )
        for row, image in enumerate(images):
            tile = _to_image(image)
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(tile, (left, top + row * (height + gap)))
    canvas.save(path, "PNG", optimize=True)


def _to_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.asarray(to_uint8(jnp.asarray(image))))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
