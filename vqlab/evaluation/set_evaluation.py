"""Sets of images by protocols, and pairs of one name: what is measured of them is in states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vqlab.evaluation.batches import to_host
from vqlab.evaluation.inception_batches import features_of
from vqlab.evaluation.paired import to_pixels
from vqlab.evaluation.protocol_state import ProtocolState
from vqlab.evaluation.protocols import Protocol
from vqlab.evaluation.set_measures import collector
from vqlab.evaluation.summary import Collector, Summary
from vqlab.ops.pixels import as_floats

# {"images": uint8 [B, H, W, 3], "mask": [B]}, and for pairs "images1", over devices.
Batches = Iterable[Mapping[str, Any]]

_floats = jax.jit(as_floats)


def add_made(
    made: jax.Array, mask: np.ndarray, inception: Any, states: Sequence[ProtocolState]
) -> None:
    """A batch of samples, [B, H, W, 3] in [-1, 1] or beyond, of all states; `mask` is on the host.

    Protocols that see the same pixels share features.
    """
    features = {}
    for state in states:
        view = state.protocol.rounding, state.protocol.preparation
        if view not in features:
            features[view] = features_of(inception, to_pixels(made, view[0]), view[1])
        state.add_samples(features[view], mask)


def add_sets(batches: Batches, inception: Any, states: Sequence[ProtocolState]) -> None:
    """Samples of all states, which share features where their preparation is the same."""
    for batch in batches:
        mask, features = to_host(batch["mask"]), {}
        for state in states:
            preparation = state.protocol.preparation
            if preparation not in features:
                features[preparation] = features_of(inception, batch["images"], preparation)
            state.add_samples(features[preparation], mask)


def add_pairs(batches: Batches, lpips: Any, states: Sequence[ProtocolState]) -> None:
    """Pairs of all states: "images1" are the originals of "images"."""
    for batch in batches:
        mask = to_host(batch["mask"])
        made, originals = _floats(batch["images"]), _floats(batch["images1"])
        for state in states:
            state.add_pairs(lpips, originals, made, mask)


def summarise(
    batches: Batches, inception: Any, measures: Mapping[Protocol, Sequence[str]]
) -> dict[str, Summary]:
    """{preparation: summary} of a reference, with all that the protocols' measures take."""
    asked: dict[str, list[str]] = {}
    for protocol, names in measures.items():
        asked.setdefault(protocol.preparation, []).extend(names)
    found: dict[str, Collector] = {
        preparation: collector(names, of_samples=False) for preparation, names in asked.items()
    }
    for batch in batches:
        mask = to_host(batch["mask"])
        for preparation, own in found.items():
            own.add(features_of(inception, batch["images"], preparation), mask)
    return {preparation: own.summary() for preparation, own in found.items()}
