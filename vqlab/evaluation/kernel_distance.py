"""KID: the squared maximum mean discrepancy between two sets of features (Binkowski et al. 2018).

Unlike FID its estimate has no bias, so that it means something of few images too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

# Draws of torch-fidelity's subsets.
SEED = 2020

ESTIMATES = ("unbiased", "biased", "u-statistic")
BLOCK = 2048  # rows at a time

# Rows [N, D] and [M, D] -> kernel [N, M].
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3, the kernel of the paper and of all libraries."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def rbf(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squared, 0) / (2 * sigma**2))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, kernel: Kernel = polynomial, estimate: str = "unbiased"
) -> float:
    """MMD^2 between all rows of `x` [N, D] and of `y` [M, D], in float64.

    "unbiased" leaves out each row's kernel with itself, "biased" does not, "u-statistic" leaves out
    x_i with y_i as well, and so needs as many of both. Takes time with the square of N + M, memory
    by blocks.

    Raises:
      ValueError: too few rows, or an unknown estimate.
    """
    if estimate not in ESTIMATES:
        raise ValueError(f"unknown estimate {estimate!r}; choose from {', '.join(ESTIMATES)}")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"KID needs at least 2 images on both sides, got {n} and {m}")
    if estimate == "u-statistic" and n != m:
        raise ValueError(f"the u-statistic needs as many of both, got {n} and {m}")
    x, y = (np.asarray(rows, np.float64) for rows in (x, y))
    own = 0 if estimate == "biased" else 1
    within = sum(
        (_sum(kernel, rows, rows) - own * _sum_pairs(kernel, rows, rows))
        / (len(rows) * (len(rows) - own))
        for rows in (x, y)
    )
    if estimate == "u-statistic":
        return within - 2 * (_sum(kernel, x, y) - _sum_pairs(kernel, x, y)) / (n * (n - 1))
    return within - 2 * _sum(kernel, x, y) / (n * m)


def subset_rows(
    num_x: int, num_y: int, *, subsets: int, size: int, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [subsets, size] of both sets, those that torch-fidelity draws.

    Without replacement within a subset, first of x, then of y.

    Raises:
      ValueError: subsets larger than the sets.
    """
    if size > min(num_x, num_y):
        raise ValueError(f"subsets of {size} are larger than sets of {num_x} and {num_y} images")
    draw = functools.partial(np.random.RandomState(seed).choice, size=size, replace=False)
    pairs = [(draw(num_x), draw(num_y)) for _ in range(subsets)]
    rows_x, rows_y = zip(*pairs, strict=True)
    return np.stack(rows_x), np.stack(rows_y)


def subset_distances(
    x: np.ndarray,
    y: np.ndarray,
    rows_x: np.ndarray,
    rows_y: np.ndarray,
    *,
    kernel: Kernel = polynomial,
) -> np.ndarray:
    """[subsets]: the unbiased MMD^2 of each, whose mean and deviation (ddof 0) libraries give."""
    pairs = zip(rows_x, rows_y, strict=True)
    return np.array([kernel_distance(x[i], y[j], kernel=kernel) for i, j in pairs])


def _sum(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> float:
    starts = range(0, len(x), BLOCK)
    blocks = [(x[i : i + BLOCK], y[j : j + BLOCK]) for i in starts for j in range(0, len(y), BLOCK)]
    return sum(float(kernel(*block).sum()) for block in blocks)


def _sum_pairs(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> float:
    """The sum of the kernels of x_i with y_i."""
    return sum(float(kernel(a[None], b[None])[0, 0]) for a, b in zip(x, y, strict=True))
