"""Semantic-spectrum coupling: power spectra by prefix of VQ, RVQ, MGVQ, TiTok, Semanticist and PCA.

Semanticist (arXiv 2503.08685, section 5.4) asks whether the first parts of a code already have the
spectrum of the whole image. Its figure shows single images at 256 pixels; here small networks are
trained on the same 32-pixel crops, and the curves are means over the same held-out tiles. VQ has
LlamaGen's 8 channels, of which 1, 2, 4 and 8 principal components are kept; of TiTok's 32 tokens
the first are, with the mean token of those tiles in the place of the others. Semanticist stands
there twice, with numbers and with codewords for concepts.

    python -m vqlab.study --study=configs/studies/coupling.py --workdir=runs/coupling

Steps and batches differ: a diffusion decoder takes more of both than a convolutional one. Another
tokenizer is one more arm. Options: `debug`, a few steps of each.
"""

import ml_collections

from configs import _bottlenecks, _common, _semanticist, _titok, mgvq_demo, semanticist_demo

TITLE = "Do the first parts of a code hold the image's spectrum?"
QUESTION = """
    Power spectra of what tokenizers make of the first parts of their codes, and of the originals in
    red.
"""

IMAGE_SIZE, TILE_SIZE = 32, 96  # tiles of the photographs are shrunk to images
NESTED = {"mask_range": (0.1, 0.3), "mask_per_sample": True}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The study; see the options above."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    study = ml_collections.ConfigDict()
    study.kind = "coupling"
    study.title, study.question = TITLE, QUESTION
    study.base = _base(debug)
    study.seeds = (0,)
    study.may_differ = ("num_steps", "batch_size")
    arms = {
        "vq": _arm("VQ, 1024 codewords", _bottlenecks.vector_quantizer(8, 1024, distance="cosine")),
        "rvq": _arm("RVQ, 4 x 32", _bottlenecks.residual_quantizer(32, 32, 4, **NESTED)),
        "mgvq": _arm("MGVQ, 4 x 32", _bottlenecks.grouped(32, 32, 4, **NESTED)),
        "semanticist": _semanticist_arm("Semanticist", "16 x 16", "", debug),
        "titok": _titok_arm(debug),
        "semanticist_quantized": _semanticist_arm(
            "Semanticist, quantized", "16 x 4 x 64", "quantized", debug
        ),
    }
    study.arms, study.order = arms, tuple(arms)
    return study.lock()


def _arm(label: str, bottleneck: ml_collections.ConfigDict) -> dict:
    """The base with another bottleneck."""
    model = ml_collections.ConfigDict({"quantizer": {}, "encoder": {}})
    _bottlenecks.place(model, bottleneck)
    return {"label": label, "family": label, "changes": {"model": model}}


def _titok_arm(debug: bool) -> dict:
    """Two small transformers, of images to tokens and back."""
    changes = {
        "model": _titok.small(IMAGE_SIZE, num_tokens=32, codebook_size=1024).to_dict(),
        "optimizer": {"tokenizer": {"learning_rate": _titok.SMALL_LEARNING_RATE}},
        "num_steps": 4 if debug else 3000,
        "batch_size": 8 if debug else 16,
        "sharding": _titok.SHARDING,
    }
    return {"label": "TiTok, 32 x 1024", "family": "TiTok", "changes": changes}


def _semanticist_arm(family: str, size: str, option: str, debug: bool) -> dict:
    """The demo's network for images of this size."""
    demo = semanticist_demo.get_config(option).copy_and_resolve_references().unlock()
    encoder = demo.model.encoder
    encoder.image_size = demo.model.decoder.latent_size = IMAGE_SIZE
    if not option:  # 2.4 dB more; with codewords 0.6 less
        encoder.kernel_deviation = encoder.width**-0.5
    changes = {
        "model": demo.model.to_dict(),
        "objective": {"name": "concept_diffusion", **demo.objective.to_dict()},
        "optimizer": {"tokenizer": {"learning_rate": demo.optimizer.tokenizer.learning_rate}},
        "num_steps": 4 if debug else 3000,
        "batch_size": 8 if debug else 16,
        "sharding": demo.sharding,
    }
    return {"label": f"{family}, {size}", "family": family, "changes": changes}


def _base(debug: bool) -> ml_collections.ConfigDict:
    """MGVQ's demo on small crops, on a backbone of residual blocks alone."""
    config = mgvq_demo.get_config("debug" if debug else "").copy_and_resolve_references().unlock()
    for side in (config.model.encoder, config.model.decoder):
        side.depths = (0, 1, 1)
        side.block_types = ("res", "res", "res")
    config.num_steps, config.batch_size = (4, 8) if debug else (1400, 8)
    config.image_size = IMAGE_SIZE
    # As in beat_vae.py, which says why.
    config.optimizer.tokenizer.learning_rate = 1e-3
    config.augment.recolour = 0.0
    config.sampling = _semanticist.sampling()
    config.sampling.update(num_steps=4 if debug else 16, guidance_scale=1.0)
    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(IMAGE_SIZE, 16)
    config.evals.reconstruction.num_images_kept = 4
    config.evals.spectrum = _common.evaluation("spectrum", IMAGE_SIZE, 16)
    for node in config.evals.values():
        node.limit = 16 if debug else 128
    config.evals.pca_spectrum = _common.evaluation("pca_spectrum", IMAGE_SIZE, 64)
    config.evals.pca_spectrum.max_components = 8 if debug else 128
    for node in config.evals.values():
        node.tile_size = TILE_SIZE
    config.intervals.update(log=2 if debug else 20, evaluate=0, checkpoint=2 if debug else 700)
    return config
