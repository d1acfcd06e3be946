"""Inception Score (Salimans et al. 2016): exp of the mean divergence from the mean prediction."""

from __future__ import annotations

import numpy as np

SEED = 2020  # of torch-fidelity's order
SPLITS = 10


def split_scores(logits: np.ndarray, splits: int = SPLITS, seed: int | None = SEED) -> np.ndarray:
    """[splits]: the score of each part of logits [N, classes], as torch-fidelity takes it.

    The logits are those without bias. Rows are put in the order of `seed` first, None for as they
    come, then cut at i N // splits. The score is the mean over parts, its deviation has ddof 0.

    Raises:
      ValueError: fewer rows than parts.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} images do not split into {splits} parts")
    if seed is not None:
        logits = logits[order(len(logits), seed)]
    cuts = [i * len(logits) // splits for i in range(splits + 1)]
    return np.array([_score(logits[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)])


def chunk_scores(logits: np.ndarray, size: int = 5000) -> np.ndarray:
    """The score of each chunk of `size` rows as they come, as ADM takes it.

    A last, shorter chunk counts the same in the mean.

    Raises:
      ValueError: no rows.
    """
    if not len(logits):
        raise ValueError("Inception Score needs images")
    return np.array([_score(logits[i : i + size]) for i in range(0, len(logits), size)])


def order(count: int, seed: int = SEED) -> np.ndarray:
    """[count]: torch-fidelity's order of so many rows."""
    return np.random.RandomState(seed).permutation(count)


def _score(logits: np.ndarray) -> float:
    """Of one part, in float64; of logarithms, so that a probability of zero is no NaN."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    shares = np.exp(logs)
    mean = np.log(np.maximum(shares.mean(axis=0), np.finfo(float).tiny))
    return float(np.exp((shares * (logs - mean)).sum(axis=1).mean()))
