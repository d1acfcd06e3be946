"""What both stages of `make demo-generate` share: labelled digits from scikit-learn's wheel."""

import ml_collections

from configs import _common

NUM_CLASSES = 10


def data() -> ml_collections.ConfigDict:
    """The embedded digits."""
    node = _common.imagenet()
    node.name = "digits"
    return node


def augment() -> ml_collections.ConfigDict:
    """Shifts and slight enlargements that leave the digit whole: it has a margin."""
    node = ml_collections.ConfigDict()
    node.min_scale = 1.0
    node.max_scale = 1.15
    node.flip = False
    node.upscale = True
    node.recolour = 0.0
    return node


def evaluations(image_size: int) -> ml_collections.ConfigDict:
    """Of a generator: likelihood, a row of pictures for each digit, what a classifier makes of
    more of them, and the training images nearest to some."""
    nodes = ml_collections.ConfigDict()
    nodes.likelihood = _common.evaluation("likelihood", image_size, batch_size=90)
    nodes.samples = _common.evaluation("samples", image_size, batch_size=50)
    nodes.samples.classes = tuple(range(NUM_CLASSES))
    nodes.samples.num_per_class = 10
    nodes.samples.seed = 0
    for name in ("recognition", "neighbours"):
        node = _common.evaluation(name, image_size, batch_size=90)
        node.classes = ()  # all
        node.num_per_class = 50
        node.seed = 0
        node.side = 16  # pixels of what is classified and compared
        nodes[name] = node
    return nodes


def shrink(config: ml_collections.ConfigDict) -> None:
    """Seconds instead of minutes."""
    config.num_steps, config.batch_size = 4, 8
    config.intervals.update(log=2, evaluate=0, checkpoint=2)
    for player in config.optimizer.values():
        player.warmup_steps = 2
    for node in config.evals.values():
        node.update(batch_size=8, limit=64)
        if "num_per_class" in node:
            node.num_per_class = 2
