"""Arms of `beat_vae.py` whose codes are sequences: TiTok, and Semanticist's concepts as codewords.

They have no backbone in common with the others: their networks are transformers, which take images
of one size. Larger ones they are measured on piece by piece, see `vqlab/models/pieces.py`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import _bottlenecks, _semanticist, _titok, semanticist_demo, semanticist_l

Changes = Mapping[str, Any]

# What small ones may differ in from the other arms. Transformers learn little in the time of a
# small convolutional network, so they have twice its steps, of twice as many images.
MAY_DIFFER = (
    "num_steps",
    "batch_size",
    "evals.reconstruction.piece_size",
    "evals.rate_distortion.piece_size",
)
STEPS, IMAGES = 2, 2

NUM_CONCEPTS, NUM_GROUPS = 32, 4  # of the small Semanticist
SAMPLING_STEPS = 8


def titok(base: ml_collections.ConfigDict, num_tokens: int, codebook_size: int) -> Changes:
    """A small TiTok on pixels."""
    model = _titok.small(base.image_size, num_tokens, codebook_size)
    optimizer = {"tokenizer": {"learning_rate": _titok.SMALL_LEARNING_RATE}}
    changes = {"optimizer": optimizer, "sharding": _titok.SHARDING}
    return {"model": model.to_dict(), **changes, **_small(base)}


def published_titok(num_tokens: int, codebook_size: int) -> Changes:
    """TiTok-B on pixels, by the base's recipe."""
    model = _titok.model("B", num_tokens, "pixels")
    model.quantizer.codebook_size = codebook_size
    return {"model": model.to_dict(), "sharding": _titok.SHARDING}


def semanticist(base: ml_collections.ConfigDict, codebook_size: int) -> Changes:
    """The demo's Semanticist for the base's images, with so many codewords in each group."""
    config = semanticist_demo.get_config().copy_and_resolve_references().unlock()
    encoder, decoder = config.model.encoder, config.model.decoder
    encoder.image_size = decoder.latent_size = base.image_size
    encoder.num_concepts = decoder.num_concepts = NUM_CONCEPTS
    node = _bottlenecks.grouped(encoder.concept_dim, codebook_size, NUM_GROUPS)
    _semanticist.quantize(config, node)
    config.sampling.num_steps = SAMPLING_STEPS
    rate = config.optimizer.tokenizer.learning_rate
    optimizer = {"tokenizer": {"learning_rate": rate}}
    return {**_of_concepts(config), "optimizer": optimizer, **_small(base)}


def published_semanticist() -> Changes:
    """Semanticist-L with quantized concepts, by its own recipe but for steps and batches."""
    config = semanticist_l.get_config("quantized")
    return {**_of_concepts(config), "optimizer": {"tokenizer": config.optimizer.tokenizer}}


def _of_concepts(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return {
        "model": config.model.to_dict(),
        "objective": {"name": "concept_diffusion", **config.objective.to_dict()},
        "sampling": config.sampling.to_dict(),
        "sharding": config.sharding,
    }


def _small(base: ml_collections.ConfigDict) -> dict[str, Any]:
    piece = {"piece_size": base.image_size}
    return {
        "num_steps": STEPS * base.num_steps,
        "batch_size": IMAGES * base.batch_size,
        "evals": {"reconstruction": piece, "rate_distortion": piece},
    }
