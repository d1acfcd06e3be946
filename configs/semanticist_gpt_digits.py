"""Semanticist's second stage on embedded digits: class -> 4 of 8 concepts -> 16x16 images.

Reproduces nothing: it is the second half of `make demo-generate` for concepts, minutes on two
cores, over a tokenizer of configs/semanticist_digits.py. The first concepts say nearly all that
there is to say, so the others stay nulls, as most do in the paper. The report is that of
configs/mgvq_gpt_digits.py.

    python -m vqlab.main --config=configs/semanticist_gpt_digits.py --workdir=DIR \\
        --config.objective.tokenizer=TOKENIZER

Options: `debug`, a run of seconds.
"""

import ml_collections

from configs import _common, _digits, mgvq_gpt_digits, semanticist_digits, semanticist_gpt_l

NUM_KEPT = 4


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; `argument` may be "debug"."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    config = mgvq_gpt_digits.get_config().copy_and_resolve_references().unlock()
    published = semanticist_gpt_l.get_config().copy_and_resolve_references().unlock()
    tokenizer = semanticist_digits.get_config()
    config.num_steps = 1500
    config.image_size = tokenizer.image_size
    config.model = published.model
    config.model.tokenizer = tokenizer.model
    config.model.update(image_size=config.image_size, num_classes=_digits.NUM_CLASSES)
    config.model.update(num_kept=NUM_KEPT, width=96, depth=4, num_heads=4, dtype="float32")
    config.model.update(head_width=96, head_depth=3)
    config.objective = published.objective
    config.sampling = published.sampling
    config.sampling.guidance_scale = 2.0
    config.sampling.num_steps = 25
    config.sampling.decoding.num_steps = 16
    config.evals = _digits.evaluations(config.image_size)
    config.checkpoint.best_metric = "likelihood/loss"
    if debug:
        _digits.shrink(config)
    return config.lock()
