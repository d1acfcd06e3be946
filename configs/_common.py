"""What every training config shares; the config files say what differs."""

import ml_collections


def parse_argument(argument: str, **defaults):
    """Reads `file.py:groups=8,debug` into a dict; a bare word is a flag.

    Raises:
      ValueError: for a word that the config does not know, or a value of another type.
    """
    values = dict(defaults)
    for word in filter(None, argument.split(",")):
        name, equals, text = word.partition("=")
        if name not in values:
            raise ValueError(f"unknown config argument {name!r}; known: {', '.join(values)}")
        values[name] = _parse_value(name, defaults[name], text if equals else None)
    return values


def _parse_value(name: str, default: bool | int | str, text: str | None):
    """`text` as the default's type; None: nothing was given after the name."""
    if isinstance(default, bool):
        if text is not None:
            raise ValueError(
                f"config argument {name!r} is a word of its own, without {'=' + text!r}"
            )
        return True
    try:
        return type(default)(text or "")
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else type(default).__name__
        raise ValueError(f"config argument {name!r} takes {kind}: {name}={default}") from None


def training() -> ml_collections.ConfigDict:
    """Seed, mesh, checkpoints and logging."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""  # a workdir, export or user/name to start from; "" for none
    config.accumulate = 1  # micro-batches that a batch is cut into
    config.ema_decay = 0.0  # of the averaged weights; 0 for none

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # -1: all the devices that are left
    config.mesh.fsdp = 1
    config.mesh.tensor = 1  # for transformers
    # (regex over parameter paths, tactic), the first match wins; see vqlab/training/sharding.py.
    config.sharding = (("codebook", "replicate"), (".*", "fsdp"))

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.keep = 2
    config.checkpoint.keep_best = 1
    config.checkpoint.best_metric = "reconstruction/psnr"
    config.checkpoint.best_mode = "max"

    config.guards = ml_collections.ConfigDict()
    config.guards.max_skipped = 10  # updates in a row, for numbers that are not finite
    config.guards.max_rollbacks = 3  # then back to the newest checkpoint, in another data order
    config.guards.max_dead_share = 0.9  # of a group's codewords, above which the log warns
    config.guards.min_perplexity = 2.0  # of a group, below which the log warns

    config.profile = ml_collections.ConfigDict()  # into WORKDIR/profile
    config.profile.start = 10  # a step, counted from the start of the process
    config.profile.num_steps = 0

    config.intervals = ml_collections.ConfigDict()  # in steps
    config.intervals.log = 100
    config.intervals.evaluate = 5_000  # a checkpoint is written before, also where none is due
    config.intervals.checkpoint = 5_000

    config.loader = ml_collections.ConfigDict()
    config.loader.num_workers = 8  # processes that decode; 0: threads of this one
    config.loader.max_corrupt_share = 0.01  # above this share of unreadable images a run stops
    return config


# Rules for transformers: by heads and hidden features over the mesh's `tensor` axis, if it has one.
TRANSFORMER_SHARDING = (
    ("blocks/mlp/fc1", "column"),
    ("blocks/(attention/proj|mlp/fc2)/kernel", "row"),
    (".*", "fsdp"),
)


def optimizer(learning_rate: float, **changes) -> ml_collections.ConfigDict:
    """AdamW as in LlamaGen's tokenizer training: constant rate, betas .9 / .95, clip 1."""
    node = ml_collections.ConfigDict()
    node.name = "adamw"
    node.learning_rate = learning_rate
    node.schedule = "constant"
    node.warmup_steps = 0
    node.b1 = 0.9
    node.b2 = 0.95
    node.weight_decay = 0.0
    node.clip_norm = 1.0
    node.update(changes)
    return node


def imagenet() -> ml_collections.ConfigDict:
    """ImageNet through tfds; or `--config.data.name=folder --config.data.path=DIR`."""
    node = ml_collections.ConfigDict()
    node.name = "tfds"  # or "folder", "photos" (ten embedded photographs), "digits"
    node.dataset = "imagenet2012"
    node.data_dir = ""  # of tfds; "" for $TFDS_DATA_DIR or ~/tensorflow_datasets
    node.path = ""  # of the folder
    node.train_split = "train"
    node.validation_split = "validation"
    node.decoding = ml_collections.ConfigDict()  # of folder and tfds; see vqlab/data/decode.py
    node.decoding.alpha = "drop"  # or "white": transparent images are laid over white
    node.decoding.exif_rotation = False  # as published ImageNet pipelines; True for phone pictures
    node.decoding.max_pixels = 178_956_970  # a larger image counts as unreadable
    node.decoding.max_metadata_bytes = 1_048_576  # of a colour profile or text in a PNG, likewise
    return node


def evaluation(name: str, image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """What every evaluator has; it reads the validation split."""
    node = ml_collections.ConfigDict()
    node.name = name
    node.image_size = image_size
    node.tile_size = 0  # pixels of tiles that images are cut into; 0: one centre crop of each
    node.batch_size = batch_size
    node.limit = 0  # images; 0 for all
    return node


def reconstruction_eval(image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """Reconstruction quality, by number of groups or concepts."""
    node = evaluation("reconstruction", image_size, batch_size)
    node.num_images_kept = 8  # pictures in the report
    return node


def add_fid(config: ml_collections.ConfigDict, image_size: int, batch_size: int) -> None:
    """FID while training, of the first images; the option `fid` of the configs."""
    config.inception_weights = ""  # pytorch-fid's or torch-fidelity's .pth, clean-fid's .pt
    node = evaluation("protocols", image_size, batch_size)
    node.protocols = "clean"  # or "mgvq", "semanticist", "adm", several with commas between
    node.measures = "fid"
    node.limit = 10_000
    config.evals.fid = node


def analyses(image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """The analyses of the Semanticist paper, over the number of groups or concepts."""
    nodes = ml_collections.ConfigDict()
    nodes.explained_variance = evaluation("explained_variance", image_size, batch_size)
    nodes.explained_variance.repeats = 4  # times and noises for each image
    nodes.explained_variance.limit = 2048
    nodes.spectrum = evaluation("spectrum", image_size, batch_size)
    nodes.spectrum.limit = 256
    nodes.probe = evaluation("probe", image_size, batch_size)
    nodes.probe.fit_split = "train"  # or "validation": fit on its even images, score on the odd
    nodes.probe.limit = 10_000
    nodes.pca = evaluation("pca", image_size, batch_size)
    nodes.pca.fit_split = "train"
    nodes.pca.max_components = 256
    nodes.pca.limit = 2048
    return nodes
