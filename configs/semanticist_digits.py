"""A small Semanticist on embedded digits, over which configs/semanticist_gpt_digits.py draws.

Reproduces nothing: it is the first half of `make demo-generate` for concepts, minutes on two cores.
Digits of 16 pixels become 8 ordered concepts of 16 numbers; a small DiT rebuilds the pixels from
any prefix.

    python -m vqlab.main --config=configs/semanticist_digits.py --workdir=runs/digits/semanticist

Options: `debug`, a run of seconds.
"""

import ml_collections

from configs import _common, _digits, semanticist_demo

NUM_CONCEPTS = 8


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; `argument` may be "debug"."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    config = semanticist_demo.get_config().copy_and_resolve_references().unlock()
    config.num_steps = 4000
    # First all concepts, as published. Nested from the start, they told nothing after 1,500 steps.
    config.objective.nested_start = 500
    config.model.encoder.kernel_deviation = config.model.encoder.width**-0.5  # twice as fast
    config.data = _digits.data()
    config.augment = _digits.augment()
    for side in (config.model.encoder, config.model.decoder):
        side.num_concepts = NUM_CONCEPTS
    config.evals = ml_collections.ConfigDict()
    config.evals.reconstruction = _common.reconstruction_eval(config.image_size, batch_size=60)
    config.evals.reconstruction.num_images_kept = 10
    config.evals.reconstruction.limit = 120  # every number of concepts is sampled
    config.intervals.checkpoint = 1000
    if debug:
        _digits.shrink(config)
    return config.lock()
