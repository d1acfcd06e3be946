"""report.html: one file that shows a run, with every picture inside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from vqlab.evaluation import figures, names, panels, sliders
from vqlab.evaluation.documents import document
from vqlab.evaluation.panels import Section, format_value

REPORT_FILE = "report.html"


class Panel(NamedTuple):
    """A plot of all curves whose name matches; the first group of `pattern` is their label."""

    title: str
    ylabel: str
    pattern: str
    log: bool = False


_LEVEL = rf"eval/((?:[^/]+/)?{names.FIRST}_\d+)"

PANELS = (
    Panel(
        "Loss of the tokenizer and its terms",
        "loss",
        r"train/(loss/tokenizer|l1|l2|lpips|vq|commit|kl|mse|vb)",
        log=True,
    ),
    Panel(
        "Loss of the generator, in nats by group where it predicts indices",
        "loss",
        r"train/(loss/generator|nll_g\d+)",
    ),
    Panel("Alignment with frozen features (REPA)", "minus cosine", r"train/(repa)"),
    Panel(
        "Adversarial players",
        "loss or logit",
        r"train/(loss/discriminator|adversarial|logits_real|logits_fake)",
    ),
    Panel(
        "Bits per index on held-out images", "bits", r"eval/((?:[^/]+/)?bits_per_index(?:_g\d+)?)"
    ),
    Panel("PSNR on held-out images", "dB", rf"{_LEVEL}/psnr"),
    Panel("SSIM (7x7, uint8) on held-out images", "SSIM", rf"{_LEVEL}/ssim"),
    Panel("Explained variance on held-out images", "share", rf"{_LEVEL}/share"),
    Panel("Loss by number kept on held-out images", "loss", rf"{_LEVEL}/loss", log=True),
    Panel("Distance from the originals' spectrum", "powers of ten", rf"{_LEVEL}/spectrum_distance"),
    Panel("Linear probe", "top-1 accuracy", rf"{_LEVEL}/probe_accuracy"),
    Panel("Codebook usage while training", "share of codewords", r"train/usage_(g\d+)"),
    Panel("Perplexity while training", "codewords", r"train/perplexity_(g\d+)"),
    Panel("Gradient norms", "norm", r"train/grad_norm/(\w+)", log=True),
    Panel("Training speed", "images per second", r"train/(images_per_second)"),
)


def write_report(
    workdir: str | Path,
    *,
    title: str,
    sections: Iterable[Section],
    snippet: str = "",
    summary: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes workdir/report.html and returns its path.

    Args:
      workdir: of the run; curves come from its metrics.jsonl, those it has.
      title: heading of the page.
      sections: what the evaluators show; empty ones are left out.
      snippet: code that loads and uses the tokenizer.
      summary: a few facts for the top of the page, such as parameters, steps, data.
      config: the resolved config, shown folded.
    """
    workdir = Path(workdir)
    curves = Section("Curves", _plots(figures.read_metrics(workdir / "metrics.jsonl")))
    use = Section("Use it", f"<pre>{escape(snippet)}</pre>" if snippet else "")
    shown = [
        f"<h2>{escape(section.heading)}</h2>{section.body}"
        for section in [*sections, curves, use]
        if section.body
    ]
    parts = [f"<h1>{escape(title)}</h1>", _summary(summary or {}), *shown, _config(config)]
    page = document(title, "\n".join(parts), ("page.css", *sliders.ASSETS))
    path, part = workdir / REPORT_FILE, workdir / f"{REPORT_FILE}.part"
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)
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


def _summary(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    rows = [
        f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in summary.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _plots(curves: Mapping[str, figures.Curve]) -> str:
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
            # With REPA the loss may fall below zero, where a logarithmic axis shows nothing.
            log = panel.log and all((values > 0).all() for _, values in chosen.values())
            png = figures.curves_png(chosen, ylabel=panel.ylabel, log=log)
            drawn.append(panels.figure(png, panel.title))
    return panels.row(drawn)


def _config(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    text = json.dumps(config, indent=2, default=str)
    return f"<details><summary>Config</summary><pre>{escape(text)}</pre></details>"


def _natural(name: str) -> list:
    """Sorting key that puts g10 after g9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
