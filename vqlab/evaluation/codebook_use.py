"""How much of a codebook is in use, and what it loses, on tokens that it was not fitted to."""

from __future__ import annotations

import numpy as np

PROTOCOL = {
    "usage": "share of all codes that some held-out token has; a code is one index of each group",
    "perplexity": "exp of the entropy of the held-out tokens' codes: as many equally frequent ones",
    "distortion": "squared error over the held-out tokens' variance: 0 nothing lost, 1 all",
}


def joint_codes(indices: np.ndarray, size: int) -> np.ndarray:
    """[N] in 0..K**G - 1: the indices [N, G] in 0..K-1 as one number, the first group's slowest."""
    return indices @ size ** np.arange(indices.shape[1])[::-1]


def joint_codewords(codebooks: np.ndarray) -> np.ndarray:
    """[K**G, G D]: what each code stands for, of codebooks [G, K, D] side by side."""
    groups, size, dim = codebooks.shape
    digits = np.stack(np.unravel_index(np.arange(size**groups), (size,) * groups), -1)
    return codebooks[np.arange(groups), digits].reshape(-1, groups * dim)


def measure(
    tokens: np.ndarray, latents: np.ndarray, indices: np.ndarray, size: int
) -> dict[str, float]:
    """The numbers of `PROTOCOL`; tokens and latents [N, C], indices [N, G] of `size` each."""
    codes = joint_codes(indices, size)
    counts = np.bincount(codes, minlength=size ** indices.shape[1])
    share = counts[counts > 0] / len(codes)
    spread = np.sum(np.square(tokens - tokens.mean(0, dtype=np.float64)))
    return {
        "usage": float(np.mean(counts > 0)),
        "perplexity": float(np.exp(-np.sum(share * np.log(share)))),
        "distortion": float(np.sum(np.square(tokens - latents, dtype=np.float64)) / spread),
    }
