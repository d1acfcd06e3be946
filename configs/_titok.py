"""What the published TiTok variants share: architecture and training.

Sizes and numbers are those of 1d-tokenizer's configs/training/TiTok (commit 942a96f), with its
README's eight processes of 32 images. Where this differs:

- Pixels are in [-1, 1] here and in [0, 1] there, so that a weight of 1 of squared errors is 0.25.
- LPIPS (VGG-16) stands for the published perceptual loss, the squared difference of a ConvNeXt-S's
  logits, with the published weight of 0.1.
- The discriminator is LlamaGen's PatchGAN, without the published one's blur, and without LeCam's
  regularization (published weight 0.001).
- The learning rate's cosine ends at 0, the published one at a tenth of the peak.
- Activations are bfloat16; there they are fp16, under a loss scale.
"""

import ml_collections

from configs import _bottlenecks, _common, _mgvq

# width, depth, heads; blocks.py.
SIZES = {"S": (512, 8, 8), "B": (768, 12, 12), "L": (1024, 24, 16)}
IMAGE_SIZE, PATCH_SIZE = 256, 16
CODEBOOK_SIZE, TOKEN_DIM = 4096, 12

# MaskGIT's VQGAN (titok.py, PretrainedTokenizer).
PIXEL_WIDTHS, PIXEL_DEPTH = (128, 128, 256, 256, 512), 2
PIXEL_CHANNELS, PIXEL_CODES = 256, 1024

SHARDING = (("codebook", "replicate"), *_common.TRANSFORMER_SHARDING)

SMALL_LEARNING_RATE = 2e-3  # for runs of minutes

STAGES = ("stage1", "stage2", "pixels")
# Parts that stage 2 leaves as stage 1 made them.
FINISHED_IN_STAGE_1 = "(encoder|quantizer)/.*"


def model(
    size: str, num_tokens: int, stage: str, *, dtype: str = "bfloat16"
) -> ml_collections.ConfigDict:
    """The network of a stage, or of the single-stage form that gives pixels."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; choose from {', '.join(SIZES)}")
    gives_pixels = stage == "pixels"
    node = ml_collections.ConfigDict()
    node.name = "titok"
    node.encoder = _transformer("titok_encoder", size, num_tokens, dtype)
    node.encoder.latent_channels = TOKEN_DIM
    node.encoder.legacy = not gives_pixels  # as the published weights of both stages need it
    node.quantizer = _bottlenecks.vector_quantizer(
        TOKEN_DIM, CODEBOOK_SIZE, distance="cosine", reseed=False
    )
    node.decoder = _transformer("titok_decoder", size, num_tokens, dtype)
    node.decoder.num_codes = 0 if gives_pixels else PIXEL_CODES
    if not gives_pixels:
        node.pixel_tokenizer = _pixel_tokenizer(stage, dtype)
    node.trains_encoder = stage != "stage2"
    return node


def small(image_size: int, num_tokens: int, codebook_size: int) -> ml_collections.ConfigDict:
    """A network for runs of minutes, on pixels in one stage; its codewords are reseeded."""
    node = model("S", num_tokens, "pixels", dtype="float32")
    for part in (node.encoder, node.decoder):
        part.update(image_size=image_size, patch_size=4, width=64, depth=3, num_heads=4)
        part.kernel_deviation = part.width**-0.5  # at 0.02: 3.5 dB less after 2,800 steps
    node.quantizer.update(codebook_size=codebook_size, reseed=True)
    return node


def _transformer(name: str, size: str, num_tokens: int, dtype: str) -> ml_collections.ConfigDict:
    width, depth, heads = SIZES[size]
    node = ml_collections.ConfigDict()
    node.name = name
    node.image_size = IMAGE_SIZE
    node.patch_size = PATCH_SIZE
    node.width = width
    node.depth = depth
    node.num_heads = heads
    node.num_tokens = num_tokens
    node.mlp_ratio = 4.0
    node.dtype = dtype
    node.remat = False
    return node


def _pixel_tokenizer(stage: str, dtype: str) -> ml_collections.ConfigDict:
    """Frozen in stage 1, in float32, as its codes are what is learned; trained on in stage 2."""
    sizes = {"widths": PIXEL_WIDTHS, "depth": PIXEL_DEPTH, "latent_channels": PIXEL_CHANNELS}
    if stage == "stage2":
        node = {"name": "soft_pixel_decoder", **sizes, "num_codes": PIXEL_CODES, "dtype": dtype}
        return ml_collections.ConfigDict(node)
    network = {"name": "maskgit_vq", **sizes, "codebook_size": PIXEL_CODES, "dtype": "float32"}
    return ml_collections.ConfigDict({"name": "frozen_pixel_tokenizer", "network": network})


def training(size: str, num_tokens: int, argument: str) -> ml_collections.ConfigDict:
    """The whole config of a variant; `argument` holds stage1, stage2 or pixels, fid and debug."""
    options = _common.parse_argument(
        argument, stage1=False, stage2=False, pixels=False, analyses=False, fid=False, debug=False
    )
    chosen = [stage for stage in STAGES if options[stage]] or ["stage2"]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} are different runs: choose one")
    (stage,) = chosen
    config = _common.training()
    config.num_steps = 500_000 if stage == "stage2" else 1_000_000
    config.batch_size = 256
    config.image_size = IMAGE_SIZE
    config.ema_decay = 0.999
    config.sharding = SHARDING
    config.model = model(size, num_tokens, stage)
    config.objective = _code_objective() if stage == "stage1" else _pixel_objective(stage)
    config.optimizer = ml_collections.ConfigDict()
    _STAGE_OPTIMIZERS[stage](config)
    config.data = _common.imagenet()
    config.augment = ml_collections.ConfigDict()
    config.augment.min_scale = 1.0  # shorter side to image_size, then a random crop
    config.augment.max_scale = 1.0
    config.augment.flip = True
    config.augment.upscale = True
    config.augment.recolour = 0.0
    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(IMAGE_SIZE, batch_size=64)
    if options["analyses"]:
        config.evals.update(_common.analyses(IMAGE_SIZE, batch_size=64))
        config.evals.explained_variance.repeats = 1  # there is no noise
    if options["fid"]:
        _common.add_fid(config, IMAGE_SIZE, batch_size=64)
    if options["debug"]:
        _shrink(config, stage)
    return config.lock()


def _code_objective() -> ml_collections.ConfigDict:
    """Stage 1."""
    node = ml_collections.ConfigDict()
    node.quantizer_weight = 1.0
    node.pixel_tokenizer_weights = ""  # maskgit-vqgan-imagenet-f16-256.bin
    node.lpips_weights = ""  # "vgg16.pth,vgg.pth", to measure LPIPS
    return node


def _pixel_objective(stage: str) -> ml_collections.ConfigDict:
    """Stage 2, and the single stage."""
    node = _mgvq.objective()
    node.reconstruction_weight = 0.25
    node.lpips_weight = 0.1
    node.quantizer_weight = 0.0 if stage == "stage2" else 1.0
    node.adversarial_weight = 0.01
    return node


def _optimize_codes(config: ml_collections.ConfigDict) -> None:
    config.optimizer.tokenizer = _optimizer(b2=0.99, warmup_steps=10_000)


def _optimize_pixels(config: ml_collections.ConfigDict) -> None:
    config.discriminator = _mgvq.discriminator()
    config.optimizer.tokenizer = _optimizer(b2=0.999, warmup_steps=5_000)
    config.optimizer.discriminator = _optimizer(b2=0.999, warmup_steps=5_000)


def _optimize_decoder(config: ml_collections.ConfigDict) -> None:
    _optimize_pixels(config)
    config.optimizer.tokenizer.frozen = FINISHED_IN_STAGE_1


_STAGE_OPTIMIZERS = {
    "stage1": _optimize_codes,
    "stage2": _optimize_decoder,
    "pixels": _optimize_pixels,
}


def _optimizer(*, b2: float, warmup_steps: int) -> ml_collections.ConfigDict:
    return _common.optimizer(
        1e-4, schedule="cosine", warmup_steps=warmup_steps, b1=0.9, b2=b2, weight_decay=1e-4
    )


def _shrink(config: ml_collections.ConfigDict, stage: str) -> None:
    """Seconds instead of weeks: the same parts, narrow, on the embedded photographs."""
    side = 32
    for part in (config.model.encoder, config.model.decoder):
        part.update(image_size=side, patch_size=8, width=32, depth=2, num_heads=2, num_tokens=8)
    config.model.quantizer.codebook_size = 64
    narrow = {"widths": (32,) * 4, "depth": 1, "latent_channels": 16}
    if stage == "stage1":
        config.model.pixel_tokenizer.network.update(codebook_size=32, **narrow)
    if stage == "stage2":
        config.model.pixel_tokenizer.update(num_codes=32, **narrow)
    if stage != "pixels":
        config.model.decoder.num_codes = 32
    if "discriminator" in config:
        config.discriminator.update(channels=8, num_layers=2)
        config.objective.update(lpips_weight=0.0, adversarial_start=2)
    for node in config.optimizer.values():
        node.warmup_steps = 2
    config.num_steps, config.batch_size, config.image_size = 6, 8, side
    config.intervals.log, config.intervals.evaluate, config.intervals.checkpoint = 2, 3, 3
    config.data.name = "photos"
    config.loader.num_workers = 0
    for node in config.evals.values():
        node.update(image_size=side, batch_size=8, limit=8)
    config.evals.reconstruction.num_images_kept = 4
