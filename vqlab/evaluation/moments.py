"""Means and covariances of features, summed in float64 on the host."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """The number, mean and covariance of rows [N, D] that come in batches.

    Batches, hosts and files merge exactly in `count`, and to rounding in float64 in the rest (Chan
    et al. 1979, around the mean of each part, so that nothing cancels).

    Attributes:
      count: N.
      mean: [D] float64.
      scatter: [D, D] float64, the sum of (row - mean)(row - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, size: int) -> Moments:
        """Of no rows of so many features."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """Of rows [N, D] of any dtype."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean = rows.mean(axis=0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Of the rows of both."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if not other.count else other
        difference = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * np.outer(difference, difference)
        return Moments(count, self.mean + difference * (other.count / count), scatter)

    def add(self, rows: np.ndarray) -> Moments:
        """With a batch of rows."""
        return self.merge(Moments.of(rows))

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], unbiased, as np.cov.

        Raises:
          ValueError: of fewer than two rows, which have none.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)
