"""Inception's features of batches of images: one compiled network for all sides and protocols."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vqlab.evaluation.batches import to_host
from vqlab.evaluation.set_measures import LOGITS, POOLED, SPATIAL
from vqlab.models.pretrained.inception import inception_features
from vqlab.models.pretrained.inception_inputs import prepare_images

# By size of the images; the network sees 299 pixels, and is compiled once for a batch size.
_prepare = jax.jit(prepare_images, static_argnames="preparation")


@jax.jit
def _features(params, x):
    features = inception_features(params, x)
    return {name: features[name] for name in (POOLED, SPATIAL, LOGITS)}


def features_of(params: Any, pixels: jax.Array, preparation: str) -> dict[str, np.ndarray]:
    """What the measures of sets take of uint8 pixels [B, H, W, 3], on the host, whole."""
    features = _features(params, _prepare(pixels, preparation=preparation))
    return {name: to_host(x) for name, x in features.items()}
