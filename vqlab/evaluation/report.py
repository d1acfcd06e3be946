"""report.html: one file that shows a run, with every picture inside it."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqlab.evaluation import figures

REPORT_FILE = "report.html"

_BY_GROUPS = re.compile(r"(groups_\d+|mean_colour)/")

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; background: #fff;
       max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; text-align: left; border-bottom: 1px solid #e2e8f0; }
th { color: #475569; font-weight: 600; } td.number { text-align: right; font-variant-numeric:
     tabular-nums; } td.protocol { color: #475569; }
table.pictures { display: block; overflow-x: auto; }
table.pictures th { text-align: center; white-space: nowrap; }
table.pictures td, table.pictures th { border: 0; padding: 3px; }
table.pictures img { width: 160px; image-rendering: pixelated; display: block; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
figure img { width: 520px; max-width: 100%; } figcaption { font-weight: 600; }
pre { background: #f8fafc; border: 1px solid #e2e8f0; padding: .8rem; overflow-x: auto; }
"""

_SNIPPET = """\
import vqlab

tokenizer = vqlab.load({path!r})
indices = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [B, h, w, G]
pictures = tokenizer.decode(indices, num_groups={num_groups})  # 1 ... {num_groups}: coarse to fine
"""


class Panel(NamedTuple):
    """A plot of all curves whose name matches; the first group of `pattern` is their label."""

    title: str
    ylabel: str
    pattern: str
    log: bool = False


PANELS = (
    Panel(
        "Loss of the tokenizer and its terms",
        "loss",
        r"train/(loss/tokenizer|l1|l2|lpips|vq|commit)",
        log=True,
    ),
    Panel(
        "Adversarial players",
        "loss or logit",
        r"train/(loss/discriminator|adversarial|logits_real|logits_fake)",
    ),
    Panel("PSNR on held-out images", "dB", r"eval/((?:[^/]+/)?groups_\d+)/psnr"),
    Panel("SSIM (7x7, uint8) on held-out images", "SSIM", r"eval/((?:[^/]+/)?groups_\d+)/ssim"),
    Panel("Codebook usage while training", "share of codewords", r"train/usage_(g\d+)"),
    Panel("Perplexity while training", "codewords", r"train/perplexity_(g\d+)"),
    Panel("Gradient norms", "norm", r"train/grad_norm/(\w+)", log=True),
    Panel("Training speed", "images per second", r"train/(images_per_second)"),
)


def write_report(
    workdir: str | Path,
    *,
    title: str,
    results: Mapping[str, float],
    protocol: Mapping[str, str],
    originals: np.ndarray,
    reconstructions: np.ndarray,
    summary: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    load_path: str | None = None,
) -> Path:
    """Writes workdir/report.html and returns its path.

    Args:
      workdir: of the run; curves come from its metrics.jsonl, those it has.
      title: heading of the page.
      results: {name: value} of `ReconstructionEvaluator.run`.
      protocol: {name: how it was measured}, shown beside the values.
      originals: [n, H, W, 3] in [-1, 1]; n may be 0.
      reconstructions: [G, n, H, W, 3] by the first 1..G groups.
      summary: a few facts for the top of the page, such as parameters, steps, data.
      config: the resolved config, shown folded.
      load_path: what to give to `vqlab.load`; the workdir by default.
    """
    workdir = Path(workdir)
    curves = figures.read_metrics(workdir / "metrics.jsonl")
    snippet = _SNIPPET.format(path=load_path or str(workdir), num_groups=len(reconstructions))
    sections = [
        _summary(summary or {}),
        _pictures(originals, reconstructions, results),
        _results(results, protocol),
        _by_groups(results),
        _plots(curves, results),
        f"<h2>Use it</h2><pre>{escape(snippet)}</pre>",
        _config(config),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>"
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
    path = workdir / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def format_table(results: Mapping[str, float], protocol: Mapping[str, str]) -> str:
    """Lines of `name  value  protocol` in columns, for a terminal."""
    values = {name: format_value(value) for name, value in results.items()}
    names = max(map(len, values), default=0)
    numbers = max(map(len, values.values()), default=0)
    return "\n".join(
        f"{name:<{names}}  {value:>{numbers}}  {protocol.get(name, '')}".rstrip()
        for name, value in values.items()
    )


def format_value(value: float) -> str:
    """Whole numbers as such, others with four significant digits or more before the point."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) >= 10:
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def grid_headings(results: Mapping[str, float], num_groups: int) -> list[str]:
    """Headings of the picture columns: the original, then each number of groups with its PSNR."""
    headings = ["original"]
    for k in range(1, num_groups + 1):
        heading = f"{k} group" if k == 1 else f"{k} groups"
        if (psnr := results.get(f"groups_{k}/psnr")) is not None:
            heading += f"\n{psnr:.2f} dB"
        headings.append(heading)
    return headings


def _summary(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    rows = [
        f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in summary.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _pictures(originals, reconstructions, results) -> str:
    if not len(originals):
        return ""
    headings = "".join(
        f"<th>{escape(text).replace(chr(10), '<br>')}</th>"
        for text in grid_headings(results, len(reconstructions))
    )
    rows = ""
    for row in zip(originals, *reconstructions, strict=True):
        cells = (f"<td>{_img(figures.image_png(image), 'image')}</td>" for image in row)
        rows += f"<tr>{''.join(cells)}</tr>\n"
    return (
        "<h2>Reconstructions of held-out images</h2>"
        f'<table class="pictures"><tr>{headings}</tr>\n{rows}</table>'
    )


def _results(results: Mapping[str, float], protocol: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{format_value(value)}</td>'
        f'<td class="protocol">{escape(protocol.get(name, ""))}</td></tr>\n'
        for name, value in results.items()
        if not _BY_GROUPS.match(name)
    )
    head = "<tr><th>metric</th><th>value</th><th>how it was measured</th></tr>"
    return f"<h2>Results</h2><table>{head}\n{rows}</table>" if rows else ""


def _by_groups(results: Mapping[str, float]) -> str:
    """One row a number of groups, one column a metric; measured as in the table of results."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in results.items():
        if _BY_GROUPS.match(name):
            way, metric = name.split("/", 1)
            rows.setdefault(way, {})[metric] = value
    if not rows:
        return ""
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    head = "".join(f"<th>{escape(metric)}</th>" for metric in metrics)
    body = ""
    for way, row in rows.items():
        label = way.replace("groups_", "first ").replace("_", " ")
        cells = (format_value(row[m]) if m in row else "" for m in metrics)
        body += f"<tr><td>{escape(label)}</td>"
        body += "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>\n"
    return (
        "<h2>By number of groups</h2><p>Measured as above; groups beyond the first k are zero. "
        "Mean colour paints each image in its own mean colour.</p>"
        f"<table><tr><th>groups</th>{head}</tr>\n{body}</table>"
    )


def _plots(curves: Mapping[str, figures.Curve], results: Mapping[str, float]) -> str:
    drawn = []
    for panel in PANELS:
        chosen = {}
        for name in sorted(curves, key=_natural):
            if match := re.fullmatch(panel.pattern, name):
                chosen[match[1]] = curves[name]
        # The name of the only evaluator says nothing to a reader.
        if len({label.rpartition("/")[0] for label in chosen}) == 1:
            chosen = {label.rpartition("/")[2]: curve for label, curve in chosen.items()}
        if chosen:
            png = figures.curves_png(chosen, ylabel=panel.ylabel, log=panel.log)
            drawn.append((panel.title, png))
    usage = {
        name.removeprefix("usage_"): value
        for name, value in results.items()
        if re.fullmatch(r"usage_g\d+", name)
    }
    if usage:
        png = figures.bars_png(usage, ylabel="share of codewords", limit=1.0)
        drawn.append(("Codebook usage on held-out images", png))
    if not drawn:
        return ""
    shown = "\n".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{_img(png, title)}</figure>"
        for title, png in drawn
    )
    return f'<h2>Curves</h2><div class="plots">{shown}</div>'


def _config(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    text = json.dumps(config, indent=2, default=str)
    return f"<details><summary>Config</summary><pre>{escape(text)}</pre></details>"


def _img(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _natural(name: str) -> list:
    """Sorting key that puts g10 after g9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
