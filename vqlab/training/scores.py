"""What was measured of each checkpoint, which is known only after it is written."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vqlab.training.disk import write_text

MODES = ("max", "min")


class Scores:
    """Reads and writes `STEP/metrics/metrics` below a folder of checkpoints, JSON {name: number}.

    Orbax writes its metrics there too, as it did for earlier runs, but only while it saves.

    Args:
      directory: of the checkpoints.
      metric: the one that says which checkpoint is best; "" for none.
      mode: "max" or "min" of it.

    Raises:
      ValueError: another mode.
    """

    def __init__(self, directory: pathlib.Path, metric: str, mode: str):
        if mode not in MODES:
            raise ValueError(f"unknown best_mode {mode!r}; known: {', '.join(MODES)}")
        self._directory, self._metric, self._mode = directory, metric, mode

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the finite metrics of a checkpoint; without one of this step nothing is kept."""
        path = self._path(step)
        if jax.process_index() != 0 or not path.parent.parent.is_dir():
            return
        path.parent.mkdir(exist_ok=True)
        finite = {name: float(x) for name, x in metrics.items() if math.isfinite(x)}
        write_text(path, json.dumps(finite))

    def has(self, step: int) -> bool:
        """Whether a checkpoint was measured; as process 0 sees it, on all processes."""
        is_there = self._path(step).is_file()
        if jax.process_count() == 1:
            return is_there
        return bool(multihost_utils.broadcast_one_to_all(np.array(is_there)))

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Those of the steps that were measured by the metric, the best first."""
        sign = -1 if self._mode == "max" else 1
        scores = {step: self._score(step) for step in steps}
        # Of equal ones the later.
        return sorted(
            (step for step, score in scores.items() if score is not None),
            key=lambda step: (sign * scores[step], -step),
        )

    def _score(self, step: int) -> float | None:
        try:
            score = json.loads(self._path(step).read_text()).get(self._metric)
        except (OSError, json.JSONDecodeError):
            return None
        return score if score is not None and math.isfinite(score) else None

    def _path(self, step: int) -> pathlib.Path:
        return self._directory / str(step) / "metrics" / "metrics"


class BestMeasured:
    """Orbax's preservation policy that keeps the `number` best checkpoints measured so far."""

    def __init__(self, scores: Scores, number: int):
        self._scores, self._number = scores, number

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each of Orbax's descriptions of a checkpoint."""
        del context
        kept = self._scores.ranked(info.step for info in checkpoints)[: self._number]
        return [info.step in kept for info in checkpoints]
