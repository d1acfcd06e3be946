"""Inception's weights drawn from a seed, by the recipe of the parity arrays."""

import functools
import hashlib
import math

import numpy as np

from vqlab.export.inception_weights import official_shapes, params_from_official

# Of the arrays in tests/golden, over all float32 bytes in the order of the names.
SEED, SHA256 = 101, "73de2cb903e547b67e4533d49be10071fa50869796c70ab26e96f9d6b0804205"


@functools.cache
def official_state(seed: int = SEED) -> dict[str, np.ndarray]:
    """Official name -> array, float32, 24 million numbers in half a second.

    In plain order of the names from numpy.random.default_rng(seed), in float64: running_var uniform
    in 0.5..1.5; all else normal n, kernels n * sqrt(2 / inputs), BatchNorm scales 1 + 0.1 n,
    offsets and means 0.1 n.
    """
    rng = np.random.default_rng(seed)
    shapes = official_shapes()
    return {name: _draw(rng, name, shapes[name]).astype(np.float32) for name in sorted(shapes)}


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, size=shape)
    normal = rng.standard_normal(size=shape)
    if name.endswith(".conv.weight") or name == "fc.weight":
        return normal * math.sqrt(2 / math.prod(shape[1:]))
    return 1 + 0.1 * normal if name.endswith(".bn.weight") else 0.1 * normal


@functools.cache
def params(seed: int = SEED) -> dict:
    """As `read_inception` gives them."""
    return params_from_official(official_state(seed))


def sha256(state: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].tobytes())
    return digest.hexdigest()
