"""A small MGVQ on embedded digits, over which configs/mgvq_gpt_digits.py draws new ones.

Reproduces nothing: it is the first half of `make demo-generate`, minutes on two cores. 32-pixel
digits, stride 8: 4 x 4 positions of four indices, each one of 32 codewords.

    python -m vqlab.main --config=configs/mgvq_digits.py --workdir=runs/digits/mgvq

Options: `debug`, a run of seconds.
"""

import ml_collections

from configs import _bottlenecks, _common, _digits, _mgvq

IMAGE_SIZE = 32
NUM_GROUPS, CODEBOOK_SIZE = 4, 32
CHANNELS = 32


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; `argument` may be "debug"."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    config = _common.training()
    config.num_steps = 1000
    config.batch_size = 32
    config.image_size = IMAGE_SIZE
    config.ema_decay = 0.99

    config.model = _model()
    config.objective = _mgvq.objective()
    config.objective.lpips_weight = 0.0  # needs a file with VGG-16's weights
    config.objective.adversarial_weight = 0.0
    config.discriminator = _mgvq.discriminator()

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.tokenizer = _common.optimizer(3e-3, schedule="cosine", warmup_steps=50)
    config.optimizer.discriminator = _common.optimizer(1e-4)

    config.data = _digits.data()
    config.augment = _digits.augment()
    config.loader.num_workers = 0

    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(IMAGE_SIZE, batch_size=90)
    config.evals.reconstruction.num_images_kept = 10

    config.intervals.log = 20
    config.intervals.evaluate = 0
    config.intervals.checkpoint = 250
    if debug:
        _digits.shrink(config)
    return config.lock()


def _model() -> ml_collections.ConfigDict:
    blocks = {"widths": (16, 32, 64, 64), "depths": (0, 1, 1, 1), "dtype": "float32"}
    blocks |= {"block_types": ("res", "res", "res", "evit_glu"), "remat": False}
    node = ml_collections.ConfigDict()
    node.name = "tokenizer"
    node.encoder = {
        "name": "conv_encoder",
        "norm": "rms_norm",
        "act": "silu",
        "latent_channels": CHANNELS,
        **blocks,
    }
    # Every number of groups in every step, as the run is short.
    node.quantizer = _bottlenecks.grouped(
        CHANNELS, CODEBOOK_SIZE, NUM_GROUPS, mask_range=(0.1, 0.3), mask_per_sample=True
    )
    node.decoder = {
        "name": "conv_decoder",
        "norms": ("batch_norm", "batch_norm", "batch_norm", "rms_norm"),
        "acts": ("relu", "relu", "relu", "silu"),
        **blocks,
    }
    return node
