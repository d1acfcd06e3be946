"""MGVQ's second stage on embedded digits: class -> 16 positions of 4 indices -> 32x32 images.

Reproduces nothing: it is the second half of `make demo-generate`, minutes on two cores, over a
tokenizer of configs/mgvq_digits.py. Its report shows digits by class, how many of them a classifier
of the training digits recognises, with guidance and without, and the training digits nearest to
some. Codes of more views of each digit come from records, as there.

    python -m vqlab.main --config=configs/mgvq_gpt_digits.py --workdir=DIR \\
        --config.objective.tokenizer=TOKENIZER

Options: `debug`, a run of seconds.
"""

import ml_collections

from configs import _common, _digits, _gpt, mgvq_digits


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; `argument` may be "debug"."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    config = _common.training()
    config.num_steps = 1000
    config.batch_size = 64
    config.image_size = mgvq_digits.IMAGE_SIZE
    config.ema_decay = 0.99
    config.sharding = _gpt.SHARDING
    config.model = _model()
    config.objective = _gpt.objective()
    config.sampling = _gpt.sampling()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.generator = _common.optimizer(
        2e-3, schedule="cosine", warmup_steps=50, weight_decay=0.05
    )
    config.data = _digits.data()
    config.augment = _digits.augment()
    config.loader.num_workers = 0
    config.evals = _digits.evaluations(config.image_size)
    config.checkpoint.best_metric = "likelihood/bits_per_index"
    config.checkpoint.best_mode = "min"
    config.intervals.log = 20
    config.intervals.evaluate = 0
    config.intervals.checkpoint = 500
    if debug:
        _digits.shrink(config)
    return config.lock()


def _model() -> ml_collections.ConfigDict:
    node = _gpt.model("B", groups=4, image_size=mgvq_digits.IMAGE_SIZE)
    node.tokenizer = mgvq_digits.get_config().model
    node.num_classes = _digits.NUM_CLASSES
    node.update(width=96, depth=4, num_heads=4, head_depth=1)
    node.codewords = "read"
    node.dtype = "float32"
    return node
