"""The Frechet distance between two Gaussians: FID and sFID (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

import logging

import numpy as np
from scipy.linalg.lapack import dpstrf

log = logging.getLogger("vqlab")


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), in float64; never NaN, complex or negative.

    The trace of the root is the sum of the roots of the eigenvalues of L^T B L with A = L L^T, a
    symmetric form whose eigenvalues are real, where the libraries take a root of A B, which is not
    symmetric, and leave out what is imaginary of it. Of fewer images than features L has as few
    columns, which makes it quick too.

    Of a degenerate covariance, as of fewer images than features, the distance is a number too, and
    a logged line says so.

    Raises:
      ValueError: shapes that do not fit together, or numbers that are not finite.
    """
    given = (mean_a, covariance_a, mean_b, covariance_b)
    mean_a, a, mean_b, b = (np.asarray(x, np.float64) for x in given)
    size = len(mean_a)
    shapes = [x.shape for x in (mean_a, a, mean_b, b)]
    if shapes != [(size,), (size, size)] * 2:
        raise ValueError(
            f"statistics of {len(mean_a)} and {len(mean_b)} features cannot be compared: {shapes}"
        )
    if not all(np.isfinite(x).all() for x in (mean_a, a, mean_b, b)):
        raise ValueError("statistics hold NaN or infinity")
    factors = [_factor(a), _factor(b)]
    if factors[0].shape[1] > factors[1].shape[1]:
        factor, other = factors[1], a
    else:
        factor, other = factors[0], b
    eigenvalues = np.linalg.eigvalsh(factor.T @ other @ factor)
    if min(f.shape[1] for f in factors) < size:
        log.warning(
            "a covariance of %d features is degenerate, as of fewer images than features: its "
            "Frechet distance says little",
            size,
        )
    root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    distance = np.square(mean_a - mean_b).sum() + np.trace(a) + np.trace(b) - 2 * root
    return max(float(distance), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """L [D, rank] with L L^T = covariance, by Cholesky with pivots."""
    lower, pivots, rank, _ = dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor
