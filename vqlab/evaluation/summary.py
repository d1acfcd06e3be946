"""What a set of images is to the measures of sets: moments of features, and rows where needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vqlab.evaluation.moments import Moments

# Rows whose moments are taken at once: the products of a few rows cost as much as of many.
BUFFER = 1024


class Gaussian(NamedTuple):
    """mean [D] and covariance [D, D], float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Summary(NamedTuple):
    """A set of images.

    count: how many; 0 where nobody says, as in ADM's statistics. gaussians: by feature. rows:
    [count, D] float32 by feature, those that were kept.
    """

    count: int
    gaussians: Mapping[str, Gaussian]
    rows: Mapping[str, np.ndarray]


class Collector:
    """Takes features of batches in; what several batches or hosts took merges.

    Args:
      moments: features whose mean and covariance are wanted.
      rows: features that are kept whole.
      rows_of_few: features that are kept whole as long as there are fewer than `few` images.
      few: see there.
    """

    def __init__(
        self,
        moments: Iterable[str] = (),
        rows: Iterable[str] = (),
        rows_of_few: Iterable[str] = (),
        few: int = 0,
    ):
        self.count = 0
        rows = tuple(rows)
        self._few, self._of_few = few, tuple(name for name in rows_of_few if name not in rows)
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in (*rows, *self._of_few)}
        self._moments: dict[str, Moments | None] = dict.fromkeys(moments)
        self._waiting: dict[str, list[np.ndarray]] = {name: [] for name in self._moments}
        self._num_waiting = 0

    def add(self, features: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """A batch: [B, D] by name, where `mask` [B] is False padding.

        Raises:
          ValueError: a feature is NaN or infinite.
        """
        for name in {**self._moments, **self._rows}:
            rows = np.asarray(features[name])[mask]
            if not np.isfinite(rows).all():
                raise ValueError(f"feature {name} of an image is NaN or infinite")
            if name in self._rows:
                self._rows[name].append(rows)
            if name in self._moments:
                self._waiting[name].append(rows)
        number = int(np.sum(mask))
        self._num_waiting += number
        self._count(number)
        if self._num_waiting >= BUFFER:
            self._flush()

    def merge(self, other: Collector) -> None:
        """Takes in what another one of the same features has."""
        other._flush()
        for name, rows in other._rows.items():
            if name in self._rows:
                self._rows[name] += rows
        for name, moments in other._moments.items():
            self._take(name, moments)
        self._count(other.count)

    def summary(self) -> Summary:
        """Of all that came in.

        Raises:
          ValueError: fewer than two images, which have no covariance.
        """
        self._flush()
        if self.count < 2:
            raise ValueError(f"{self.count} images are too few to be measured as a set")
        return Summary(
            self.count,
            {name: Gaussian(m.mean, m.covariance) for name, m in self._moments.items()},
            {name: np.concatenate(rows) for name, rows in self._rows.items()},
        )

    def _count(self, number: int) -> None:
        self.count += number
        if self.count >= self._few:
            for name in self._of_few:
                self._rows.pop(name, None)

    def _flush(self) -> None:
        for name, waiting in self._waiting.items():
            if waiting:
                self._take(name, Moments.of(np.concatenate(waiting)))
                waiting.clear()
        self._num_waiting = 0

    def _take(self, name: str, moments: Moments | None) -> None:
        own = self._moments[name]
        self._moments[name] = own.merge(moments) if own and moments else own or moments
