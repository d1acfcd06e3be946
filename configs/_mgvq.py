"""What the published MGVQ variants share: architecture and training.

Architectures are those of mgvq.py (the config functions of f8c32, f16c32 and f32c32).

Sizes are those of the released checkpoints; `codebook_size` counts codewords per group (the
published 32768 and 16384 count all groups).
"""

import ml_collections

from configs import _bottlenecks, _common

LATENT_CHANNELS = 32
WIDTHS = {
    "f8": (128, 256, 512, 512),
    "f16": (128, 256, 512, 512, 1024),
    "f32": (128, 256, 512, 512, 1024, 1024),
}
ENCODER_DEPTHS = (0, 4, 8, 2, 2, 2)
DECODER_DEPTHS = (0, 5, 10, 2, 2, 2)
BLOCK_TYPES = {
    "f8": ("res",) * 3 + ("evit_glu",),
    "f16": ("res",) * 3 + ("evit_glu",) * 2,
    "f32": ("res",) * 3 + ("evit_glu",) * 3,
}
CODEBOOK_SIZES = {4: 8192, 8: 2048}

# Probabilities that a step drops a group and all after it, spread from group 1 to the last. For 4
# groups this is the (0, 0.2, 0.3, 0.4) of a comment in mgvq.py; for 8 none are published.
MASK_RANGE = (0.2, 0.4)


def model(
    variant: str, groups: int, *, dtype: str = "bfloat16", remat: bool = False, mask_range=()
) -> ml_collections.ConfigDict:
    """The tokenizer node of a published variant: "f8", "f16" or "f32" with 4 or 8 groups."""
    if variant not in WIDTHS:
        raise ValueError(f"unknown variant {variant!r}; choose from {sorted(WIDTHS)}")
    if groups not in CODEBOOK_SIZES:
        raise ValueError(
            f"no published model has {groups} groups; choose from {sorted(CODEBOOK_SIZES)}"
        )
    widths, block_types = WIDTHS[variant], BLOCK_TYPES[variant]
    n = len(widths)
    node = ml_collections.ConfigDict()
    node.name = "tokenizer"

    node.encoder = ml_collections.ConfigDict()
    node.encoder.name = "conv_encoder"
    node.encoder.widths = widths
    node.encoder.depths = ENCODER_DEPTHS[:n]
    node.encoder.block_types = block_types
    node.encoder.norm = "rms_norm"
    node.encoder.act = "silu"
    node.encoder.latent_channels = LATENT_CHANNELS
    node.encoder.dtype = dtype
    node.encoder.remat = remat

    node.quantizer = _bottlenecks.grouped(
        LATENT_CHANNELS, CODEBOOK_SIZES[groups], groups, mask_range=mask_range
    )

    node.decoder = ml_collections.ConfigDict()
    node.decoder.name = "conv_decoder"
    node.decoder.widths = widths
    node.decoder.depths = DECODER_DEPTHS[:n]
    node.decoder.block_types = block_types
    node.decoder.norms = ("batch_norm",) * 3 + ("rms_norm",) * (n - 3)
    node.decoder.acts = ("relu",) * 3 + ("silu",) * (n - 3)
    node.decoder.dtype = dtype
    node.decoder.remat = remat
    return node


def training(variant: str, argument: str) -> ml_collections.ConfigDict:
    """The whole config of a variant.

    `argument` holds groups, finetune, bottleneck, analyses, fid and debug.
    """
    options = _common.parse_argument(
        argument,
        groups=4,
        finetune=False,
        bottleneck="",
        analyses=False,
        fid=False,
        debug=False,
    )
    config = _common.training()
    config.num_steps = 540_000
    config.batch_size = 128
    config.image_size = 256
    config.model = model(
        variant,
        options["groups"],
        mask_range=() if options["finetune"] else MASK_RANGE,
    )
    config.objective = objective()
    if options["bottleneck"]:
        _replace_bottleneck(config, variant, options)
    config.discriminator = discriminator()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.tokenizer = _common.optimizer(1e-4)
    config.optimizer.discriminator = _common.optimizer(1e-4)
    config.data = _common.imagenet()
    config.augment = ml_collections.ConfigDict()
    config.augment.min_scale = 1.0  # of the shorter side, relative to image_size
    config.augment.max_scale = 1.25
    config.augment.flip = True
    config.augment.upscale = True
    config.augment.recolour = 0.0
    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(image_size=256, batch_size=64)
    if options["analyses"]:
        config.evals.update(_common.analyses(image_size=256, batch_size=64))
        config.evals.explained_variance.repeats = 1  # there is no noise
    if options["fid"]:
        _common.add_fid(config, image_size=256, batch_size=64)
    if options["debug"]:
        _shrink(config)
        if not options["bottleneck"]:
            config.model.quantizer.codebook_size = 64
    return config.lock()


def _replace_bottleneck(config: ml_collections.ConfigDict, variant: str, options: dict) -> None:
    """Another bottleneck in the place of MGVQ's, whose masks and groups go with it."""
    if options["groups"] != 4 or options["finetune"]:
        raise ValueError("groups and finetune are of MGVQ's own bottleneck; leave them out")
    _bottlenecks.place(config.model, _bottlenecks.published(options["bottleneck"], variant))
    if options["bottleneck"] == "vae":
        config.objective.quantizer_weight = _bottlenecks.kl_weight(config.image_size)


def objective() -> ml_collections.ConfigDict:
    """LlamaGen's losses and weights (vq_loss.py)."""
    node = ml_collections.ConfigDict()
    node.reconstruction = "l2"  # or "l1"
    node.reconstruction_weight = 1.0
    node.lpips_weight = 1.0
    node.lpips_weights = ""  # file(s) with VGG-16 and LPIPS heads, "vgg16.pth,vgg.pth"
    node.quantizer_weight = 1.0
    node.group_reduction = "mean"  # of vq and commitment losses; not published
    node.adversarial_weight = 0.5
    node.adversarial_start = 20_000
    node.adaptive_weight = False
    return node


def discriminator() -> ml_collections.ConfigDict:
    """LlamaGen's PatchGAN (discriminator_patchgan.py)."""
    node = ml_collections.ConfigDict()
    node.name = "patch_discriminator"
    node.channels = 64
    node.num_layers = 3
    node.dtype = "bfloat16"
    return node


def _shrink(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of weeks: the same parts, narrow, on the embedded photographs."""
    for side in (config.model.encoder, config.model.decoder):
        side.widths = tuple(width // 16 if width < 512 else 32 for width in side.widths)
        side.depths = (0,) + (1,) * (len(side.depths) - 1)
    config.discriminator.channels = 8
    config.objective.lpips_weight = 0.0
    config.objective.adversarial_start = 2
    config.num_steps, config.batch_size, config.image_size = 6, 8, 64
    config.intervals.log, config.intervals.evaluate, config.intervals.checkpoint = 2, 3, 3
    config.data.name = "photos"
    config.loader.num_workers = 0
    for node in config.evals.values():
        node.update(image_size=64, batch_size=8, limit=8)
    config.evals.reconstruction.num_images_kept = 4
