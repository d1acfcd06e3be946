"""What the published Semanticist variants share: architecture and training.

Numbers are those of the paper (section 5.1, appendix C.1) and of the released configs. Where they
disagree this follows the paper: no weight decay (released code: 0.05 on tensors of two and more
axes), and a cosine that reaches 0 (the released scheduler stops at 15 % of the peak).
"""

import ml_collections

from configs import _bottlenecks, _common

# depth, width, heads (DiT; S for small runs).
DECODERS = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
STEPS_PER_EPOCH = 625  # ImageNet in batches of 2048
NESTED_START = 50 * STEPS_PER_EPOCH
REPA_DIM = 768  # DINOv2 ViT-B/14

# Of quantized concepts, which are not published: as many bits as MGVQ-f16-G4 has, 256 x 4 x 13.
NUM_GROUPS, CODEBOOK_SIZE = 4, 8192

# The autoencoder of the latent space, MAR's KL-16.
LATENT_CHANNELS, LATENT_STRIDE, SCALING_FACTOR = 16, 16, 0.2325


def model(
    size: str,
    *,
    image_size: int = 256,
    num_concepts: int = 256,
    concept_dim: int = 16,
    repa: bool = False,
    dtype: str = "bfloat16",
) -> ml_collections.ConfigDict:
    """ViT-B/16 encoder and DiT-`size`/2 decoder on the latents of the KL-16 autoencoder."""
    if size not in DECODERS:
        raise ValueError(f"unknown size {size!r}; choose from {', '.join(DECODERS)}")
    depth, width, heads = DECODERS[size]
    node = ml_collections.ConfigDict()
    node.name = "semanticist"
    node.encoder = encoder(
        image_size=image_size, num_concepts=num_concepts, concept_dim=concept_dim, dtype=dtype
    )

    node.decoder = ml_collections.ConfigDict()
    node.decoder.name = "dit"
    node.decoder.latent_size = image_size // LATENT_STRIDE
    node.decoder.in_channels = LATENT_CHANNELS
    node.decoder.out_channels = 2 * LATENT_CHANNELS  # noise and variance
    node.decoder.patch_size = 2
    node.decoder.width = width
    node.decoder.depth = depth
    node.decoder.num_heads = heads
    node.decoder.mlp_ratio = 4.0
    node.decoder.num_concepts = num_concepts
    node.decoder.concept_dim = concept_dim
    node.decoder.repa_layer = 8
    node.decoder.repa_dim = REPA_DIM if repa else 0  # 0: no projector
    node.decoder.repa_width = 2048
    node.decoder.dtype = dtype
    node.decoder.remat = False

    node.process = ddpm()
    node.latent_space = ml_collections.ConfigDict()
    node.latent_space.name = "autoencoder_space"
    node.latent_space.scaling_factor = SCALING_FACTOR
    node.latent_space.autoencoder = kl_autoencoder()
    return node


def encoder(
    *, image_size: int, num_concepts: int, concept_dim: int, dtype: str
) -> ml_collections.ConfigDict:
    """ViT-B/16 with concepts."""
    node = ml_collections.ConfigDict()
    node.name = "concept_encoder"
    node.image_size = image_size
    node.patch_size = 16
    node.width = 768
    node.depth = 12
    node.num_heads = 12
    node.mlp_ratio = 4.0
    node.num_concepts = num_concepts
    node.concept_dim = concept_dim
    node.drop_path = 0.1
    node.is_causal = True
    node.dtype = dtype
    node.remat = False
    return node


def ddpm() -> ml_collections.ConfigDict:
    """The published process."""
    node = ml_collections.ConfigDict()
    node.name = "ddpm"
    node.num_train_steps = 1000
    node.schedule = "linear"
    node.prediction = "epsilon"
    node.learned_variance = True
    return node


def flow() -> ml_collections.ConfigDict:
    """The straight path from noise to data; the decoder predicts its velocity and no variance."""
    node = ml_collections.ConfigDict()
    node.name = "flow"
    node.time_scale = 1000.0
    return node


def training(size: str, argument: str) -> ml_collections.ConfigDict:
    """The whole config of a variant; `argument` holds concepts, quantized, repa, flow, ...."""
    options = _common.parse_argument(
        argument, concepts=256, quantized=False, repa=False, flow=False, fid=False, debug=False
    )
    concepts = options["concepts"]
    if concepts < 1 or 4096 % concepts:
        raise ValueError(f"concepts={concepts} does not divide 4096, the numbers of an image")
    config = _common.training()
    config.num_steps = 250_000
    config.batch_size = 2048
    config.image_size = 256
    config.ema_decay = 0.999
    config.sharding = _common.TRANSFORMER_SHARDING
    config.model = model(
        size, num_concepts=concepts, concept_dim=4096 // concepts, repa=options["repa"]
    )
    config.objective = objective(NESTED_START)
    config.sampling = sampling()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.tokenizer = _common.optimizer(
        2e-4, schedule="cosine", warmup_steps=100 * STEPS_PER_EPOCH, clip_norm=3.0
    )
    config.data = _common.imagenet()
    config.augment = ml_collections.ConfigDict()
    config.augment.min_scale = 1.0  # shorter side to image_size, then a random crop
    config.augment.max_scale = 1.0
    config.augment.flip = True
    config.augment.upscale = True
    config.augment.recolour = 0.0
    config.evals = evaluations(image_size=256, batch_size=64)
    if options["fid"]:
        _common.add_fid(config, image_size=256, batch_size=64)
    if options["debug"]:
        _shrink(config)
    if options["flow"]:
        config.model.process = flow()
        config.model.decoder.out_channels = config.model.decoder.in_channels
    if options["quantized"]:
        channels, size = config.model.encoder.concept_dim, 16 if options["debug"] else CODEBOOK_SIZE
        quantize(config, _bottlenecks.grouped(channels, size, NUM_GROUPS))
    return config.lock()


def quantize(config: ml_collections.ConfigDict, node: ml_collections.ConfigDict) -> None:
    """Makes concepts codewords of this bottleneck, and measures what prefixes of them cost."""
    config.model.quantizer = node
    config.objective.quantizer_weight = 1.0
    config.sharding = (("codebook", "replicate"), *config.sharding)
    config.evals.rate_distortion = config.evals.reconstruction.copy_and_resolve_references()
    del config.evals.rate_distortion["num_images_kept"]
    config.evals.rate_distortion.name = "rate_distortion"


def objective(nested_start: int) -> ml_collections.ConfigDict:
    """Nested guidance as published, and the files of the frozen networks."""
    node = ml_collections.ConfigDict()
    node.nested_start = nested_start  # a step; -1 for never
    node.condition_dropout = 0.1  # before nested_start
    node.null_share = 0.0  # after it; the released code never trains the all-null case again
    node.draws_per_image = 1  # times and noises for one pass of the encoder
    node.repa_weight = 1.0
    node.latent_weights = ""  # the autoencoder: MAR's kl16.ckpt, a diffusers file, or an export
    node.repa_weights = ""  # dinov2_vitb14_pretrain.pth, with the option `repa`
    node.lpips_weights = ""  # "vgg16.pth,vgg.pth", to measure LPIPS
    return node


def sampling() -> ml_collections.ConfigDict:
    """How the evaluators decode."""
    node = ml_collections.ConfigDict()
    node.num_steps = 25  # the paper's tables: 250
    node.guidance_scale = 3.0
    node.guidance_schedule = "constant"  # or linear, cosine, interval
    node.guidance_interval = (0.0, 1.0)  # of the last: from data, 0, to pure noise, 1
    node.sampler = ""  # "" for the process's own
    return node


def evaluations(image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """Reconstruction quality and the analyses of the paper."""
    nodes = ml_collections.ConfigDict()
    nodes.reconstruction = _common.reconstruction_eval(image_size, batch_size)
    nodes.reconstruction.limit = 512  # every number of concepts is sampled
    nodes.update(_common.analyses(image_size, batch_size))
    return nodes


def kl_autoencoder() -> ml_collections.ConfigDict:
    """The frozen autoencoder's node, that of configs/kl_vae_f16.py in float32."""
    from configs import kl_vae_f16

    return kl_vae_f16.model(dtype="float32")


def _shrink(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of weeks: narrow, on pixels of the embedded photographs."""
    side = 32
    config.num_steps, config.batch_size, config.image_size = 6, 8, side
    config.model.encoder.update(image_size=side, patch_size=8, width=32, depth=2, num_heads=2)
    config.model.encoder.update(num_concepts=8, concept_dim=8)
    config.model.decoder.update(latent_size=side, in_channels=3, out_channels=6, patch_size=8)
    config.model.decoder.update(width=32, depth=2, num_heads=2, num_concepts=8, concept_dim=8)
    config.model.decoder.update(repa_layer=1, repa_dim=0)
    config.model.latent_space = ml_collections.ConfigDict(
        {"name": "pixel_space", "channels": 3, "stride": 1}
    )
    config.objective.nested_start = 2
    config.optimizer.tokenizer.warmup_steps = 2
    config.sampling.num_steps = 4
    config.intervals.log, config.intervals.evaluate, config.intervals.checkpoint = 2, 3, 3
    config.data.name = "photos"
    config.loader.num_workers = 0
    for node in config.evals.values():
        node.update(image_size=side, batch_size=8, limit=8)
    config.evals.reconstruction.num_images_kept = 4
    config.evals.explained_variance.repeats = 1
