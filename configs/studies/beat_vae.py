"""Could VQ-VAE beat VAE? Every bottleneck on one backbone, data, steps and seeds, at equal rate.

The question is the title of MGVQ (arXiv 2507.07997), whose tables compare at equal stride and at
unequal rates. Here each arm trains the demo's network (`configs/mgvq_demo.py`: stride 4) with
another bottleneck, and its codes are put into the rate-distortion plane: indices at fixed length
and by an ideal static code; a VAE by its KL, and by its means rounded to several steps.

    python -m vqlab.study --study=configs/studies/beat_vae.py:quick --workdir=runs/study
    python -m vqlab.study --study=configs/studies/beat_vae.py --workdir=DIR --data=folder:PHOTOS

Arms stand at three rates, 10, 20 and 40 bits a position (0.625, 1.25 and 2.5 bits a pixel at fixed
length; 14, 28 and 56 a position of a published backbone), and a VAE of 8 channels at four weights
of its KL. Quantizers share 32 latent channels, with linear maps where they take fewer. Nothing else
differs.

Options, comma-separated: `quick`, eight arms, one seed and fewer steps; `debug`, a run of seconds
of each arm of `quick`; `backbone=f16` (or `f8`, `f32`), MGVQ's published network and recipe in
place of the demo's, for a pod: give it `--data=tfds:imagenet2012` and
`--study.base.objective.lpips_weights=vgg16.pth,vgg.pth`.

Two arms have networks of their own, see `_sequences.py`: TiTok at the lowest of the three rates,
and a Semanticist of quantized concepts, any prefix of which is a code, up to that rate. With a
published backbone the latter also takes
`--study.arms.semanticist_quantized.changes.objective.latent_weights=kl16.ckpt`.
"""

from typing import NamedTuple

import ml_collections

from configs import _bottlenecks, _common, _mgvq, mgvq_demo
from configs.studies import _sequences

TITLE = "Could VQ-VAE beat VAE?"
QUESTION = """
    Every bottleneck on the same backbone, data, steps and seeds, in the rate-distortion plane.
    Higher is better, and further left is cheaper: a method beats the VAE where it lies above the
    VAE's curve at equal rate.
"""

STRIDE = 4  # of the demo's backbone
CHANNELS = 32  # of the latents that are quantized, as in MGVQ
VAE_CHANNELS = 8
KL_WEIGHTS = (2e-1, 5e-2, 1e-2, 3e-3)  # see `_vae`
STEPS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.25)  # of rounding, in units of the latents' spread
QUICK = (
    "autoencoder",
    "vae_050",
    "vae_010",
    "vq",
    "vq_not_reseeded",
    "fsq_2",
    "rvq_4",
    "mgvq_4",
)


class Sizes(NamedTuple):
    """whole: codewords of one codebook. part: of one of two that share its bits. levels: of a grid
    of nearly as many points as `whole`. entropy_weight: of BSQ."""

    whole: int
    part: int
    levels: tuple[int, ...]
    entropy_weight: float


# BSQ's own weight, 0.1, is one beside perceptual losses of about 1. Beside a squared error of 0.03
# alone nothing else would be heard.
SMALL = Sizes(1024, 32, (8, 5, 5, 5), entropy_weight=0.003)
PUBLISHED = Sizes(16_384, 128, (8, 8, 8, 6, 5), entropy_weight=0.1)  # as VQ-16384 in MGVQ's tables


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The study; see the options above."""
    options = _common.parse_argument(argument, quick=False, debug=False, backbone="")
    study = ml_collections.ConfigDict()
    study.kind = "rate_distortion"
    study.title, study.question = TITLE, QUESTION
    backbone, debug = options["backbone"], options["debug"]
    is_short = options["quick"] or debug
    study.base = _published(backbone, debug) if backbone else _demo(debug)
    if options["quick"] and not (backbone or debug):
        study.base.num_steps = 900
    study.seeds = (0,) if is_short else (0, 1)
    study.anchor = "VAE"
    study.num_pictures = 4
    arms = _arms(study, PUBLISHED if backbone else SMALL)
    arms |= _published_sequences(backbone) if backbone else _sequence_arms(study.base)
    study.may_differ = () if backbone else _sequences.MAY_DIFFER
    study.order = QUICK if is_short else tuple(arms)  # a ConfigDict sorts its keys
    study.arms = {name: arms[name] for name in study.order}
    return study.lock()


def _arms(study: ml_collections.ConfigDict, size: Sizes) -> dict:
    """All arms, in the order of legend and table; those of one rate lie side by side."""
    make, whole, part = _bottlenecks, size.whole, size.part
    bits, levels = whole.bit_length() - 1, "x".join(map(str, size.levels))
    nested = {"mask_range": (0.1, 0.3), "mask_per_sample": True}
    arms = {
        "autoencoder": _arm("Autoencoder, 32 channels", "Autoencoder", make.none(CHANNELS)),
        "autoencoder_8": _arm("Autoencoder, 8 channels", "Autoencoder", make.none(VAE_CHANNELS)),
    }
    for weight in KL_WEIGHTS:
        name = f"vae_{1000 * weight:03.0f}"  # thousandths
        arms[name] = _vae(weight, study.base.image_size)

    # One codebook's rate.
    arms["vq"] = _arm(f"VQ {whole}", "VQ", make.vector_quantizer(CHANNELS, whole))
    arms["vq_not_reseeded"] = _arm(
        f"VQ {whole}, never reseeded",
        "VQ, never reseeded",
        make.vector_quantizer(CHANNELS, whole, reseed=False),
    )
    arms["simvq"] = _arm(f"SimVQ {whole}", "SimVQ", make.simvq(CHANNELS, whole))
    arms["fsq_1"] = _arm(f"FSQ {levels}", "FSQ", make.fsq(size.levels, CHANNELS))
    arms["bsq_1"] = _bsq(f"BSQ, {bits} bits", size, 1)
    arms["mgvq_1"] = _arm(f"MGVQ 1x{whole}", "MGVQ", make.grouped(CHANNELS, whole, 1))
    # Twice, then four times as many bits.
    arms["fsq_2"] = _arm(f"FSQ, 2 of {levels}", "FSQ", make.fsq(size.levels, CHANNELS, 2))
    arms["bsq_2"] = _bsq(f"BSQ, 2 of {bits} bits", size, 2)
    arms["mgvq_2_whole"] = _arm(
        f"MGVQ 2x{whole}", "MGVQ", make.grouped(CHANNELS, whole, 2, **nested)
    )
    arms["fsq_4"] = _arm(f"FSQ, 4 of {levels}", "FSQ", make.fsq(size.levels, CHANNELS, 4))
    # All three rates from parts of half a codebook's bits.
    for count in (2, 4, 8):
        arms[f"rvq_{count}"] = _arm(
            f"RVQ {count}x{part}", "RVQ", make.residual_quantizer(CHANNELS, part, count)
        )
        arms[f"mgvq_{count}"] = _arm(
            f"MGVQ {count}x{part}", "MGVQ", make.grouped(CHANNELS, part, count, **nested)
        )
    for count in (2, 4, 8):
        arms[f"mgvq_{count}_free"] = _arm(
            f"MGVQ {count}x{part}, not nested",
            "MGVQ, not nested",
            make.grouped(CHANNELS, part, count),
        )
    return arms


def _sequence_arms(base: ml_collections.ConfigDict) -> dict:
    """Arms with networks of their own, at the rate of one codebook on the backbone."""
    positions = (base.image_size // STRIDE) ** 2
    concepts = f"{_sequences.NUM_CONCEPTS} concepts of {_sequences.NUM_GROUPS}x{SMALL.part}"
    note = (
        "no common backbone: transformers of its own, trained on more images, which code larger "
        f"ones in pieces of {base.image_size} pixels"
    )
    return {
        "titok": _other(
            f"TiTok {positions}x{SMALL.whole}",
            "TiTok",
            _sequences.titok(base, positions, SMALL.whole),
            note,
        ),
        "semanticist_quantized": _other(
            f"Semanticist, {concepts}",
            "Semanticist, quantized",
            _sequences.semanticist(base, SMALL.part),
            f"{note}; trained to denoise, and drawn in {_sequences.SAMPLING_STEPS} steps",
        ),
    }


def _published_sequences(backbone: str) -> dict:
    """The same at the published sizes; TiTok has as many tokens as the backbone has positions."""
    tokens = (256 // int(backbone.removeprefix("f"))) ** 2
    return {
        "titok": _other(
            f"TiTok-B {tokens}x{PUBLISHED.whole}",
            "TiTok",
            _sequences.published_titok(tokens, PUBLISHED.whole),
            "no common backbone: transformers of its own",
        ),
        "semanticist_quantized": _other(
            "Semanticist-L, quantized",
            "Semanticist, quantized",
            _sequences.published_semanticist(),
            "no common backbone: transformers and an autoencoder of its own; trained to denoise",
        ),
    }


def _other(
    label: str, family: str, changes: _sequences.Changes, note: str
) -> ml_collections.ConfigDict:
    """An arm with another network."""
    arm = {"label": label, "family": family, "changes": changes, "seeds": (), "note": note}
    return ml_collections.ConfigDict(arm)


def _arm(label: str, family: str, bottleneck, **objective) -> ml_collections.ConfigDict:
    """An arm that differs from the base in its bottleneck, and in settings of the objective."""
    model = ml_collections.ConfigDict({"quantizer": {}, "encoder": {}})
    _bottlenecks.place(model, bottleneck)
    changes = {"model": model, "objective": objective}
    arm = {"label": label, "family": family, "changes": changes, "seeds": (), "note": ""}
    return ml_collections.ConfigDict(arm)


def _bsq(label: str, size: Sizes, num_groups: int) -> ml_collections.ConfigDict:
    weight = size.entropy_weight
    return _arm(
        label, "BSQ", _bottlenecks.bsq(size.whole, CHANNELS, num_groups, entropy_weight=weight)
    )


def _vae(weight: float, side: int) -> ml_collections.ConfigDict:
    """`weight` of a nat, beside the sum of squared errors over an image's values in [-1, 1]."""
    label = f"VAE, KL weight {weight:g}"
    node = _bottlenecks.gaussian(VAE_CHANNELS)
    return _arm(label, "VAE", node, quantizer_weight=weight / (3 * side**2))


def _demo(debug: bool) -> ml_collections.ConfigDict:
    """The demo's training, shorter: a backbone of residual blocks alone, and small crops."""
    config = mgvq_demo.get_config("debug" if debug else "").copy_and_resolve_references().unlock()
    for side in (config.model.encoder, config.model.decoder):
        side.depths = (0, 1, 1) if debug else (0, 1, 2)
        side.block_types = ("res", "res", "res")
        if debug:
            side.widths = (32, 32, 32)
    config.num_steps = 4 if debug else 1400
    config.image_size = 32
    # At the demo's rate, three times this, FSQ saturates, and MGVQ and BSQ learn more slowly.
    config.optimizer.tokenizer.learning_rate = 1e-3
    # With random colours some runs had not learned to send any colour by their end, and others had:
    # seeds differed by more than bottlenecks.
    config.augment.recolour = 0.0
    config.evals.rate_distortion = _common.evaluation("rate_distortion", 192, 4)
    config.evals.rate_distortion.update(tile_size=192, steps=STEPS)
    for node in config.evals.values():
        node.limit = 2 if debug else 0
        node.batch_size = 2 if debug else 4
    config.evals.reconstruction.num_images_kept = 4
    config.intervals.update(log=2 if debug else 20, evaluate=0, checkpoint=2 if debug else 700)
    return config


def _published(backbone: str, debug: bool) -> ml_collections.ConfigDict:
    """MGVQ's published network and recipe, first stage, without its nesting."""
    config = _mgvq.training(backbone, "debug" if debug else "")
    config = config.copy_and_resolve_references().unlock()
    config.evals.rate_distortion = config.evals.reconstruction.copy_and_resolve_references()
    del config.evals.rate_distortion["num_images_kept"]
    config.evals.rate_distortion.update(name="rate_distortion", steps=STEPS)
    config.evals.reconstruction.num_images_kept = 4
    return config
