"""What the second stages of MGVQ share: a transformer over the indices of a frozen tokenizer.

Architecture and sampling are MGVQ's (its released applications/autoregressive), whose training code
is not public; training is that of LlamaGen's train_c2i.py and train_c2i_fsdp.py, which it builds
on, but for random crops in the place of stored ones and averaged weights.
"""

import ml_collections

from configs import _common, _mgvq, mgvq_f16

# width, depth, heads (LlamaGen, table 1) and the side in pixels that each is trained at there.
SIZES = {
    "B": (768, 12, 12, 256),
    "L": (1024, 24, 16, 256),
    "XL": (1280, 36, 20, 384),
    "XXL": (1536, 48, 24, 384),
}
STEPS_PER_EPOCH = 5004  # ImageNet in batches of 256

# Rules for LlamaGen's blocks: by heads and hidden features over the mesh's `tensor` axis, if any.
SHARDING = (
    ("blocks/mlp/w[13]/kernel", "column"),
    ("blocks/(attention/proj|mlp/w2)/kernel", "row"),
    (".*", "fsdp"),
)


def model(size: str, groups: int, image_size: int) -> ml_collections.ConfigDict:
    """The generator's node over the released f16 tokenizer; `objective.tokenizer` replaces that."""
    width, depth, heads, _ = SIZES[size]
    node = ml_collections.ConfigDict()
    node.name = "index_generator"
    node.tokenizer = _mgvq.model("f16", groups, dtype="float32")
    node.image_size = image_size
    node.num_classes = 1000  # 0 for none, with config.sampling.guidance_scale=1.0
    node.width = width
    node.depth = depth
    node.num_heads = heads
    node.head_depth = 2
    node.dropout = 0.1
    node.label_dropout = 0.1
    node.codewords = "stored"  # as released; "read" takes them as the decoder does, of length 1
    node.dtype = "bfloat16"
    return node


def training(size: str, argument: str) -> ml_collections.ConfigDict:
    """The whole config of a size; `argument` holds groups, image_size, fid and debug."""
    options = _common.parse_argument(
        argument, groups=4, image_size=SIZES[size][3], fid=False, debug=False
    )
    config = _common.training()
    config.num_steps = 300 * STEPS_PER_EPOCH
    config.batch_size = 256
    config.image_size = options["image_size"]
    config.ema_decay = 0.9999  # of its --ema, which its published commands leave out; 0.0 is theirs
    config.sharding = SHARDING
    config.model = model(size, options["groups"], config.image_size)
    config.objective = objective()
    config.sampling = sampling()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.generator = _common.optimizer(1e-4, weight_decay=0.05)
    config.data = _common.imagenet()
    config.augment = augment()
    config.evals = evaluations(config.image_size, batch_size=64)
    config.checkpoint.best_metric = "likelihood/bits_per_index"
    config.checkpoint.best_mode = "min"
    if options["fid"]:
        add_fid(config, batch_size=64)
    if options["debug"]:
        shrink(config, image_size=64)
        config.model.tokenizer = mgvq_f16.get_config("debug").model
        config.model.update(width=32, depth=2, num_heads=2)
    return config.lock()


def objective() -> ml_collections.ConfigDict:
    """The frozen tokenizer."""
    node = ml_collections.ConfigDict()
    node.tokenizer = ""  # a workdir, export or user/name, whose node becomes model.tokenizer
    return node


def sampling() -> ml_collections.ConfigDict:
    """How the evaluator `samples` draws, and `vqlab.generate` by default."""
    node = ml_collections.ConfigDict()
    # The released script's default, as of LlamaGen's published B and L; of XL and XXL it is 1.75.
    node.guidance_scale = 2.0
    node.guidance_schedule = "constant"  # or linear, from 1 to the scale
    node.guidance_interval = -1  # guidance ends after so many positions; -1: never
    node.temperature = 1.0
    node.top_k = 0  # 0: all, as LlamaGen's; the released script takes half, 4096 of 8192
    node.top_p = 1.0
    return node


def augment() -> ml_collections.ConfigDict:
    """Random crops in the range of LlamaGen's ten crops at 1.1 and 1.05 times the side."""
    node = ml_collections.ConfigDict()
    node.min_scale = 1.0
    node.max_scale = 1.1
    node.flip = True
    node.upscale = True
    node.recolour = 0.0
    return node


def evaluations(image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """How well held-out codes are predicted, and a few pictures."""
    nodes = ml_collections.ConfigDict()
    nodes.likelihood = _common.evaluation("likelihood", image_size, batch_size)
    nodes.likelihood.limit = 10_000
    nodes.samples = _common.evaluation("samples", image_size, batch_size)
    nodes.samples.classes = ()  # (): eight, evenly spread
    nodes.samples.num_per_class = 4
    nodes.samples.seed = 0
    return nodes


def add_fid(config: ml_collections.ConfigDict, batch_size: int) -> None:
    """Measures of samples while training, beside the first images; the option `fid`."""
    config.inception_weights = ""  # pytorch-fid's or torch-fidelity's .pth, clean-fid's .pt
    node = _common.evaluation("generation", config.image_size, batch_size)
    node.protocols = "adm"  # or "clean", "mgvq", "semanticist", several with commas between
    node.measures = "fid,is,pr"
    node.limit = 10_000
    node.num_images = 0  # that are drawn; 0: as many as images are read
    node.sampling = ml_collections.ConfigDict()  # what differs from config.sampling
    node.sampling.guidance_scale = config.sampling.guidance_scale
    node.seed = 0
    config.evals.fid = node


def shrink(config: ml_collections.ConfigDict, image_size: int) -> None:
    """Seconds instead of weeks: narrow, on the embedded photographs, of which each is a class."""
    config.num_steps, config.batch_size, config.image_size = 6, 8, image_size
    config.model.update(image_size=image_size, num_classes=8)
    config.intervals.log, config.intervals.evaluate, config.intervals.checkpoint = 2, 3, 3
    config.data.name = "photos"
    config.loader.num_workers = 0
    for node in config.evals.values():
        node.update(image_size=image_size, batch_size=8, limit=8)
    config.evals.samples.num_per_class = 2
