"""A small Semanticist on eight embedded photographs: minutes on two cores.

Reproduces nothing: it shows that training works. 16-pixel crops in random colours become 16 ordered
concepts of 16 numbers; a small DiT rebuilds the pixels from any prefix. Evaluated on tiles of two
photographs that it never saw. `make demo-semanticist` trains it twice, without and with nested
guidance, and shows both curves over the number of concepts: only with it do the first concepts
explain most.

    python -m vqlab.main --config=configs/semanticist_demo.py:control --workdir=runs/control
    python -m vqlab.main --config=configs/semanticist_demo.py --workdir=runs/semanticist \\
        --compare=runs/control

Options, comma-separated: `control`, all concepts in every step; `quantized`, concepts as 4 indices
of 64 codewords each; `debug`, a run of seconds.
"""

import ml_collections

from configs import _bottlenecks, _common, _semanticist

IMAGE_SIZE = 16
TILE_SIZE = 96  # of the photographs that it is measured on, shrunk to IMAGE_SIZE
NUM_CONCEPTS, CONCEPT_DIM = 16, 16
NUM_GROUPS, CODEBOOK_SIZE = 4, 64  # of quantized concepts


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; see the options above."""
    options = _common.parse_argument(argument, control=False, quantized=False, debug=False)
    debug = options["debug"]
    config = _common.training()
    config.num_steps = 6 if debug else 8000
    config.batch_size = 8 if debug else 32
    config.image_size = IMAGE_SIZE
    config.ema_decay = 0.99
    config.sharding = _common.TRANSFORMER_SHARDING

    config.model = _model()
    config.objective = _semanticist.objective(nested_start=-1 if options["control"] else 0)
    # Explained variance starts from no concepts, which the control trains too. More than a little
    # costs a run this short what the concepts tell: 1.8 dB at 0.02, 2.8 at 0.1.
    config.objective.null_share = 0.02
    config.sampling = _semanticist.sampling()
    config.sampling.num_steps = 16
    config.sampling.guidance_scale = 1.0

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.tokenizer = _common.optimizer(
        3e-3, schedule="cosine", warmup_steps=2 if debug else 50
    )
    config.data = _common.imagenet()
    config.data.name = "photos"
    config.augment = ml_collections.ConfigDict()
    config.augment.min_scale = 1.0
    config.augment.max_scale = 12.0
    config.augment.flip = True
    config.augment.upscale = False
    config.augment.recolour = 0.5
    config.loader.num_workers = 0

    config.evals = _semanticist.evaluations(image_size=IMAGE_SIZE, batch_size=32)
    for node in config.evals.values():
        node.tile_size = TILE_SIZE
        node.limit = 32 if debug else 256
    config.evals.reconstruction.num_images_kept = 12
    config.evals.probe.fit_split = "validation"  # which photograph is it? those of train differ

    config.intervals.log = 2 if debug else 50
    config.intervals.evaluate = 0
    config.intervals.checkpoint = 3 if debug else 2000
    if options["quantized"]:
        node = _bottlenecks.grouped(CONCEPT_DIM, CODEBOOK_SIZE, NUM_GROUPS)
        _semanticist.quantize(config, node)
    return config.lock()


def _model() -> ml_collections.ConfigDict:
    node = {
        "name": "semanticist",
        "encoder": {
            "name": "concept_encoder",
            "image_size": IMAGE_SIZE,
            "patch_size": 4,
            "width": 64,
            "depth": 3,
            "num_heads": 4,
            "mlp_ratio": 4.0,
            "num_concepts": NUM_CONCEPTS,
            "concept_dim": CONCEPT_DIM,
            "drop_path": 0.0,
            "is_causal": True,
            "token_deviation": 0.4,  # at 0.02 no concept told places apart in a run this short
            "dtype": "float32",
            "remat": False,
        },
        "decoder": {
            "name": "dit",
            "latent_size": IMAGE_SIZE,
            "in_channels": 3,
            "out_channels": 3,
            "patch_size": 4,
            "width": 64,
            "depth": 3,
            "num_heads": 4,
            "mlp_ratio": 4.0,
            "num_concepts": NUM_CONCEPTS,
            "concept_dim": CONCEPT_DIM,
            "repa_layer": 1,
            "repa_dim": 0,
            "repa_width": 1,
            "dtype": "float32",
            "remat": False,
        },
        # Noise that hides every pixel still shows their common colour. The error of x_0 counts
        # most where even that is gone, and only the concepts tell.
        "process": {
            "name": "ddpm",
            "num_train_steps": 1000,
            "schedule": "linear",
            "prediction": "x_0",
            "learned_variance": False,
            "sampler": "ddim",
        },
        "latent_space": {"name": "pixel_space"},
    }
    return ml_collections.ConfigDict(node)
