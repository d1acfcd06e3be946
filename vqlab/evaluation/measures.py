"""Which measures there are, of sets of images and of pairs, and which networks they take."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence

import jax

from vqlab.evaluation.image_metrics import GAUSSIAN_WINDOW
from vqlab.evaluation.paired import PAIRED
from vqlab.evaluation.set_measures import SET_MEASURES
from vqlab.models.pretrained.lpips import MIN_SIDE
from vqlab.registry import check_choice

log = logging.getLogger("vqlab")

MEASURES = (*SET_MEASURES, *PAIRED)
NETWORKS = ("inception", "lpips")
_NETWORK_OF = {**dict.fromkeys(SET_MEASURES, "inception"), "lpips": "lpips"}
_FLAGS = {
    "inception": "the weights of Inception (--inception_weights=FILE of vqlab.evaluate, "
    "--config.inception_weights=FILE of a run)",
    "lpips": "the weights of LPIPS (--lpips_weights=FILES of vqlab.evaluate, "
    "--config.objective.lpips_weights=FILES of a run)",
}


def of_text(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of a text with commas between, or of a sequence; each once."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    return tuple(dict.fromkeys(filter(None, names)))


def check_measures(measures: Sequence[str], networks: Collection[str]) -> tuple[str, ...]:
    """The measures.

    Raises:
      ValueError: an unknown one, or one whose network is not given.
    """
    for measure in measures:
        check_choice("measure", measure, MEASURES)
        network = _NETWORK_OF.get(measure)
        if network and network not in networks:
            raise ValueError(f"{measure} needs {_FLAGS[network]}")
    return tuple(measures)


def measurable(measures: Sequence[str], networks: Collection[str]) -> tuple[str, ...]:
    """Those of the measures whose networks are given; a line on the others."""
    for network in NETWORKS:
        without = [name for name in measures if _NETWORK_OF.get(name) == network]
        if without and network not in networks:
            _warn_once(f"not measured: {', '.join(without)}, without {_FLAGS[network]}")
    return tuple(name for name in measures if _NETWORK_OF.get(name) in (None, *networks))


@functools.cache  # several protocols lack the same
def _warn_once(line: str) -> None:
    if jax.process_index() == 0:
        log.warning("%s", line)


def needs_sets(measures: Collection[str]) -> bool:
    """Whether one of them is of sets, which takes a reference."""
    return bool(set(measures) & set(SET_MEASURES))


def least_side(measures: Collection[str]) -> int:
    """Side in pixels that images must have."""
    sides = {"ssim": GAUSSIAN_WINDOW, "lpips": MIN_SIDE}
    return max([1, *(sides.get(name, 1) for name in measures)])
