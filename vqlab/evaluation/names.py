"""Names of metrics, made and taken apart here alone.

A metric of an evaluator is called `psnr`; the same with the first four units of the code kept is
`first_4/psnr`, whatever the units are; of a reconstruction from eight principal components
`components_8/psnr`; of a baseline `mean_colour/psnr`. In front of it stands the evaluator's name in
the config: `reconstruction/first_4/psnr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

FIRST, COMPONENTS = "first", "components"
BASELINES = ("mean_colour", "mean_image")

_NAME = re.compile(rf"([^/]+)/(?:(?:({FIRST}|{COMPONENTS})_(\d+)|({'|'.join(BASELINES)}))/)?(.+)")
# What the first units were called before, by what they are.
_NOUNS = re.compile(r"(^|/)(?:groups|concepts)_(?=\d+/)")


class MetricName(NamedTuple):
    """The parts of a name.

    evaluator: "" of its own names. way: `FIRST`, `COMPONENTS`, one of `BASELINES` or "".
    kept: how many; 0 without a number. metric: the last part.
    """

    evaluator: str
    way: str
    kept: int
    metric: str


def first(kept: int, metric: str = "") -> str:
    """The metric with the first so many units kept; without one the way alone."""
    return f"{FIRST}_{kept}/{metric}".rstrip("/")


def components(kept: int, metric: str) -> str:
    """The metric of a reconstruction from so many principal components."""
    return f"{COMPONENTS}_{kept}/{metric}"


def parse(name: str) -> MetricName:
    """The parts of `EVALUATOR/WAY/METRIC`.

    Raises:
      ValueError: no name of a metric.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no metric's name")
    evaluator, way, kept, baseline, metric = match.groups()
    return MetricName(evaluator, way or baseline or "", int(kept or 0), metric)


def parse_own(name: str) -> MetricName:
    """The parts of `WAY/METRIC`, as an evaluator calls its own metrics."""
    return parse(f"own/{name}")._replace(evaluator="")


def today(results: Mapping[str, float]) -> dict[str, float]:
    """Results that an earlier version saved, by today's names."""
    return {_name_today(name, results): value for name, value in results.items()}


def _name_today(name: str, results: Mapping[str, float]) -> str:
    # Where `ssim_gaussian_valid` is not beside it, `ssim_gaussian` is still that one.
    if name.endswith("/ssim_gaussian") and f"{name}_valid" not in results:
        name = f"{name}_valid"
    return _NOUNS.sub(rf"\1{FIRST}_", name)
