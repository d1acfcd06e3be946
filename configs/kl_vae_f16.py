"""KL-16: 256x256 images become 16x16 Gaussian latents of 16 channels, where Semanticist diffuses.

Reproduces the architecture of MAR's KL-16 autoencoder (vae.py): 66.5 M parameters, no codebook. It
is the kl-f16 of latent diffusion (LDM) but for attention in the decoder's last stage, which LDM has
and MAR has not; the option `ldm` adds it (69.6 M). Published weights of both are read by
vqlab/export/kl_weights.py; train one for other data, sizes or bottlenecks.

Losses and their weights are LDM's (contperceptual.py): L1 and LPIPS, KL with weight 1e-6, and from
step 50,001 on half a PatchGAN, balanced by gradient norms. LDM sums the pixel losses of an image;
here they are means, and the weight of the KL is divided by the number of pixel values, which leaves
the balance as it was. Batch, optimizer, learning rate, length and augmentation are ours, those of
the MGVQ configs: what MAR trained with is not published.

    python -m vqlab.main --config=configs/kl_vae_f16.py --workdir=DIR \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth

Cost: fits a TPU slice v5e:4x8. What it takes there or elsewhere:

    python -m vqlab.plan --config=configs/kl_vae_f16.py --topology=v5e:4x8

Options, comma-separated: `ldm`; `fid`, in every evaluation, with --config.inception_weights=FILE;
`debug`, a run of seconds of a narrow network on the embedded photographs.
"""

import ml_collections

from configs import _bottlenecks, _common, _mgvq

LATENT_CHANNELS = 16
WIDTHS = (128, 128, 256, 256, 512)
IMAGE_SIZE = 256


def get_config(argument: str = ""):
    """The config; see the options above."""
    options = _common.parse_argument(argument, ldm=False, fid=False, debug=False)
    config = _common.training()
    config.num_steps = 540_000
    config.batch_size = 128
    config.image_size = IMAGE_SIZE
    config.sharding = ((".*", "fsdp"),)
    config.model = model(decoder_attention=options["ldm"])
    config.objective = _mgvq.objective()
    config.objective.reconstruction = "l1"
    config.objective.quantizer_weight = _bottlenecks.kl_weight(IMAGE_SIZE)
    config.objective.adversarial_start = 50_001
    config.objective.adaptive_weight = True
    config.discriminator = _mgvq.discriminator()
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
    config.evals.reconstruction = _common.reconstruction_eval(IMAGE_SIZE, batch_size=64)
    if options["fid"]:
        _common.add_fid(config, IMAGE_SIZE, batch_size=64)
    if options["debug"]:
        _shrink(config)
    return config.lock()


def model(
    *, dtype: str = "bfloat16", remat: bool = False, decoder_attention: bool = False
) -> ml_collections.ConfigDict:
    """The tokenizer node of KL-16."""
    last = len(WIDTHS) - 1
    node = ml_collections.ConfigDict()
    node.name = "tokenizer"

    node.encoder = ml_collections.ConfigDict()
    node.encoder.name = "kl_encoder"
    node.encoder.widths = WIDTHS
    node.encoder.depth = 2
    node.encoder.attention_stages = (last,)
    node.encoder.latent_channels = 2 * LATENT_CHANNELS  # means and log-variances
    node.encoder.dtype = dtype
    node.encoder.remat = remat

    node.quantizer = _bottlenecks.gaussian(LATENT_CHANNELS)

    node.decoder = ml_collections.ConfigDict()
    node.decoder.name = "kl_decoder"
    node.decoder.widths = WIDTHS
    node.decoder.depth = 3
    node.decoder.attention_stages = (last,) if decoder_attention else ()
    node.decoder.dtype = dtype
    node.decoder.remat = remat
    return node


def _shrink(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of weeks: the same parts, narrow, on the embedded photographs."""
    for side in (config.model.encoder, config.model.decoder):
        side.widths = (32,) * len(WIDTHS)
        side.depth = 1
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
