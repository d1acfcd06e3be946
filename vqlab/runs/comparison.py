"""Curves of several runs over the number of concepts or groups kept, side by side."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping

from vqlab.evaluation import names
from vqlab.runs.results import read_results

SHOWN = ("reconstruction/psnr", "reconstruction/ssim", "explained_variance/share")


def read_comparison(
    workdir: str | pathlib.Path, others: Iterable[str | pathlib.Path]
) -> dict[str, dict[str, float]]:
    """{folder's name: {"EVALUATOR/METRIC": value}} of other runs, to stand beside `workdir`'s.

    Raises:
      ValueError: a run that was never evaluated, or two folders of one name.
    """
    own, *folders = (pathlib.Path(folder).expanduser().absolute() for folder in (workdir, *others))
    labels = Counter(folder.name for folder in (own, *folders))
    if twice := [name for name, times in labels.items() if times > 1]:
        raise ValueError(f"--compare: runs are told apart by their folder's name; twice: {twice}")
    return {folder.name: read_results(folder) for folder in folders}


def format_curves(runs: Mapping[str, Mapping[str, float]]) -> str:
    """Lines with one table for each metric of `SHOWN`: a row a run, a column a number kept."""
    curves: dict[str, dict[str, dict[int, float]]] = {name: {} for name in SHOWN}
    for label, results in runs.items():
        for name, value in results.items():
            parts = names.parse(name)
            metric = f"{parts.evaluator}/{parts.metric}"
            if parts.way == names.FIRST and metric in curves:
                curves[metric].setdefault(label, {})[parts.kept] = value
    width = max(map(len, runs), default=0)
    lines = []
    for metric, rows in curves.items():
        kept = sorted({k for row in rows.values() for k in row})
        if not kept:
            continue
        lines.append(f"{metric} by number kept")
        lines.append(" " * width + "".join(f"{k:>9}" for k in kept))
        lines += [
            f"{label:<{width}}" + "".join(f"{row[k]:>9.4g}" if k in row else " " * 9 for k in kept)
            for label, row in rows.items()
        ]
    return "\n".join(lines)
