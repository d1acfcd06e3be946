"""The smallest real second stages: 16 positions of 2 indices, 3 of 4 concepts, of 8 classes."""

from configs import mgvq_gpt_b, semanticist_gpt_l
from tests import exports, tiny
from tests.filled import filled
from vqlab import models

CLASSES = 8


def index_tokenizer():
    """A node of few parts: stride 2, 2 groups of 16 codewords."""
    node = tiny.tokenizer_node()
    few = {"widths": (8, 8), "depths": (0, 1), "block_types": ("res", "res")}
    node["encoder"] |= few
    node["decoder"] |= few | {"norms": ("batch_norm", "rms_norm"), "acts": ("relu", "silu")}
    return node


def index_node(**changes):
    """Of an `IndexGenerator` for images of 8 pixels."""
    return {
        "name": "index_generator",
        "tokenizer": index_tokenizer(),
        "image_size": 8,
        "num_classes": CLASSES,
        "width": 32,
        "depth": 1,
        "num_heads": 2,
        "head_depth": 1,
    } | changes


def concept_node(**changes):
    """Of a `ConceptGenerator` for images of 16 pixels."""
    return {
        "name": "concept_generator",
        "tokenizer": tiny.semanticist_node(),
        "image_size": 16,
        "num_classes": CLASSES,
        "process": {"name": "flow", "time_scale": 1.0, "sampler": "euler_maruyama"},
        "num_kept": 3,
        "width": 32,
        "depth": 1,
        "num_heads": 2,
        "head_width": 16,
        "head_depth": 1,
    } | changes


def variables(node, seed=0):
    """Random ones of a whole network."""
    module = models.build(node)
    side = module.example_side
    return dict(filled(module.init, tiny.images(1, side), seed=seed))


def save(path, node, *, seed=0, frozen=None, sampling=None):
    """An export with random weights."""
    collections = variables(node, seed)
    params = collections.pop("params")
    return exports.save(path, node, params, collections, frozen=frozen, sampling=sampling)


def save_generator(path, node, *, seed=0, sampling=None):
    """An export of a second stage and its tokenizer, both random."""
    frozen = {"tokenizer": variables(node["tokenizer"], seed)}
    return save(path, node, seed=seed, frozen=frozen, sampling=sampling)


def config(tokenizer, module=mgvq_gpt_b, **changes):
    """A whole training config over the tokenizer in a folder, on the photographs."""
    node = concept_node() if module is semanticist_gpt_l else index_node()
    config = module.get_config("debug").unlock()
    config.model = node
    config.objective.tokenizer = str(tokenizer)
    config.ema_decay = 0.9
    config.num_steps = 4
    config.mesh.update(data=2, fsdp=4)
    config.intervals.update(log=1, evaluate=0, checkpoint=2)
    config.image_size = node["image_size"]
    for evaluator in config.evals.values():
        evaluator.update(image_size=node["image_size"])
    config.evals.samples.update(classes=(0, 7), num_per_class=1)
    config.optimizer.generator.update(name="sgd", learning_rate=0.1)  # less to compile
    config.update(changes)
    return config.lock()
