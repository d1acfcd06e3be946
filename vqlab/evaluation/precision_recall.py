"""Improved precision and recall (Kynkaanniemi et al. 2019) over balls of the k-th neighbour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NEIGHBOURS = 3
BLOCK = 1024  # rows at a time


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """(share of the samples inside the reference, share of the reference inside the samples).

    A point is inside a set if it lies in the ball around one of its points that reaches to that
    point's k-th neighbour, on whose surface counts. Features are [N, D] and [M, D]; distances are
    float64, where ADM takes float16 unless that overflows.

    Raises:
      ValueError: a set has no more than k points.
    """
    in_reference = inside(samples, reference, squared_radii(reference, k))
    in_samples = inside(reference, samples, squared_radii(samples, k))
    return float(in_reference.mean()), float(in_samples.mean())


def squared_radii(points: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """[N]: the squared distance of each point to its k-th neighbour among the others.

    Raises:
      ValueError: there are no more than k points.
    """
    if len(points) <= k:
        raise ValueError(f"precision and recall of {k} neighbours need {k + 1} images or more")
    rows = []
    for start, block in _blocks(points):
        distances = squared_distances(block, points)
        # Itself, at exactly 0 and not at what rounding leaves of it.
        distances[np.arange(len(block)), start + np.arange(len(block))] = 0
        rows.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(rows)


def inside(points: np.ndarray, others: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """[N] bool: whether each point lies in one of the balls around `others` [M, D].

    `radii` [M] are squared.
    """
    blocks = [(squared_distances(block, others) <= radii).any(1) for _, block in _blocks(points)]
    return np.concatenate(blocks)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, M] float64."""
    x, y = (np.asarray(rows, np.float64) for rows in (x, y))
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.maximum(squared, 0)


def _blocks(points: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(points), BLOCK):
        yield start, points[start : start + BLOCK]
