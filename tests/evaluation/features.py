"""Features in the place of Inception's, which takes a third of a second an image."""

import numpy as np

from vqlab.evaluation import references, set_evaluation, statistics_file
from vqlab.evaluation.set_measures import LOGITS, POOLED, SPATIAL

SIZES = {POOLED: 6, SPATIAL: 5, LOGITS: 4}


def features_of(params, pixels, preparation):
    """Fixed random functions of the pixels' means over a 4x4 grid, others for each preparation."""
    pixels = np.asarray(pixels, np.float64)
    batch, height, width, _ = pixels.shape
    grid = pixels.reshape(batch, 4, height // 4, 4, width // 4, 3).mean((2, 4)).reshape(batch, -1)
    made = {}
    for name, size in SIZES.items():
        seed = sum(map(ord, name + preparation))
        matrix = np.random.default_rng(seed).normal(size=(grid.shape[1], size)) / 64
        made[name] = np.sin(grid @ matrix).astype(np.float32)
    return made


def stand_in(monkeypatch, features_of=features_of):
    """Takes Inception's place wherever sets are measured."""
    for module in (references, set_evaluation):
        monkeypatch.setattr(module, "features_of", features_of)
    monkeypatch.setattr(statistics_file, "_SIZES", SIZES)
