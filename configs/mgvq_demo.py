"""A small MGVQ on eight embedded photographs: minutes on two cores (`make demo`).

Reproduces nothing: it shows that training works. 64-pixel crops in random colours, stride 4, four
groups of 32 codewords; evaluated on every whole 192-pixel tile of two photographs that it never
saw.

    python -m vqlab.main --config=configs/mgvq_demo.py --workdir=runs/demo

Options: `:debug` for a run of seconds.
"""

import ml_collections

from configs import _common, _mgvq


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; `argument` may be "debug"."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    config = _common.training()
    config.num_steps = 8 if debug else 1700
    config.batch_size = 8
    config.image_size = 64
    config.ema_decay = 0.99

    config.model = _model(width=32)
    config.objective = _mgvq.objective()
    config.objective.lpips_weight = 0.0  # needs a file with VGG-16's weights
    config.objective.adversarial_weight = 0.0  # no discriminator: too few images for one
    config.discriminator = _mgvq.discriminator()

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.tokenizer = _common.optimizer(
        3e-3, schedule="cosine", warmup_steps=2 if debug else 50
    )
    config.optimizer.discriminator = _common.optimizer(1e-4)

    config.data = _common.imagenet()
    config.data.name = "photos"
    config.augment = ml_collections.ConfigDict()
    config.augment.min_scale = 1.0
    config.augment.max_scale = 6.0
    config.augment.flip = True
    config.augment.upscale = False
    config.augment.recolour = 0.5
    config.loader.num_workers = 0

    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(image_size=192, batch_size=4)
    config.evals.reconstruction.tile_size = 192
    config.evals.reconstruction.num_images_kept = 12
    config.evals.reconstruction.limit = 4 if debug else 0

    config.intervals.log = 2 if debug else 20
    config.intervals.evaluate = 4 if debug else 340
    config.intervals.checkpoint = 4 if debug else 340
    return config.lock()


def _model(width: int) -> ml_collections.ConfigDict:
    blocks = {"widths": (width, width, 2 * width), "depths": (0, 1, 1)}
    blocks |= {"block_types": ("res", "res", "evit_glu"), "dtype": "float32", "remat": False}
    node = {
        "name": "tokenizer",
        "encoder": {
            "name": "conv_encoder",
            "norm": "rms_norm",
            "act": "silu",
            "latent_channels": 32,
            **blocks,
        },
        "quantizer": {
            "name": "grouped_quantizer",
            "num_groups": 4,
            "codebook_size": 32,
            "latent_channels": 32,
            "beta": 0.25,
            "mask_range": (0.1, 0.3),
            "mask_probs": (),
            "mask_per_sample": True,  # every number of groups in every step: a short run
            "usage_decay": 0.01,
            "reseed": True,
        },
        "decoder": {
            "name": "conv_decoder",
            "norms": ("batch_norm", "batch_norm", "rms_norm"),
            "acts": ("relu", "relu", "silu"),
            **blocks,
        },
    }
    return ml_collections.ConfigDict(node)
