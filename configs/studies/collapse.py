"""Why codebooks collapse: MGVQ's first figure, codebooks alone on an anisotropic distribution.

Many or few channels, many or few codes: for plain VQ learned by gradient, for VQ with reseeding,
and for two groups of the same capacity, which are reseeded too. The four cases of plain VQ are the
four panels of the figure (arXiv 2507.07997).

    python -m vqlab.study --study=configs/studies/collapse.py --workdir=runs/collapse
    python -m vqlab.study --study=configs/studies/collapse.py --workdir=DIR \\
        --study.base.latents=runs/demo

Tokens stay where they are and are drawn anew at every step; what is measured is measured on others.
Codewords begin as PyTorch's embeddings do, standard normal in all directions alike. With
`--study.base.deviation=0` they begin as VQGAN's, uniform within 1 / K of the origin: then many
codes leave most of them unused whatever the number of channels.

`--study.base.latents` takes a workdir or an exported tokenizer, whose encoder's latents of the
images of `--data` stand in the place of the distribution. Options: `debug`, one
case in seconds.
"""

import ml_collections

from configs import _bottlenecks, _common

TITLE = "How codebooks collapse"
QUESTION = """
    Codewords learn only from tokens that they are nearest to. How many are ever reached, with many
    or few channels and many or few codes, and what do reseeding and groups change?
"""

CHANNELS = {"many": 16, "few": 2}
CODES = {"few": 64, "many": 1024}
NUM_GROUPS = 2


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The study; see the options above."""
    debug = _common.parse_argument(argument, debug=False)["debug"]
    study = ml_collections.ConfigDict()
    study.kind = "collapse"
    study.title, study.question = TITLE, QUESTION
    study.base = _base(debug)
    study.seeds = (0,)
    study.may_differ = ()
    arms = {
        f"{way}_{channels}_channels_{codes}_codes": _arm(way, CHANNELS[channels], CODES[codes])
        for way in ("gradient", "reseeded", "grouped")
        for channels in CHANNELS
        for codes in CODES
    }
    if debug:
        arms = {name: arm for name, arm in arms.items() if name.endswith("few_channels_few_codes")}
    study.arms, study.order = arms, tuple(arms)  # a ConfigDict sorts its keys
    return study.lock()


def _arm(way: str, channels: int, num_codes: int) -> ml_collections.ConfigDict:
    groups = NUM_GROUPS if way == "grouped" else 1
    size = round(num_codes ** (1 / groups))
    label, family = {
        "gradient": (f"VQ {size}", "VQ, by gradient"),
        "reseeded": (f"VQ {size}, reseeded", "VQ, reseeded"),
        "grouped": (f"{groups} groups of {size}, reseeded", "Groups of the same capacity"),
    }[way]
    quantizer = _bottlenecks.vector_quantizer(channels // groups, size, reseed=way != "gradient")
    changes = {"quantizer": quantizer, "num_groups": groups, "channels": channels}
    return ml_collections.ConfigDict({"label": label, "family": family, "changes": changes})


def _base(debug: bool) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_steps = 40 if debug else 1000
    config.batch_size = 64 if debug else 512
    config.measure_every = 20 if debug else 25  # steps
    config.deviation = 1.0  # of the first codewords; 0: as the quantizer makes them
    config.optimizer = _common.optimizer(1e-2)

    config.channels = CHANNELS["many"]
    config.num_groups = 1
    config.quantizer = _bottlenecks.vector_quantizer(CHANNELS["many"], CODES["few"])

    config.tokens = ml_collections.ConfigDict()
    config.tokens.count = 2_000 if debug else 50_000
    config.tokens.num_held_out = 400 if debug else 10_000
    config.tokens.channels = CHANNELS["many"]  # of the distribution
    config.tokens.seed = 0
    config.tokens.image_size = 192  # of the images whose latents are taken
    config.tokens.tile_size = 192  # pixels of tiles that they are cut into; 0: one crop of each
    config.tokens.batch_size = 4  # images
    config.latents = ""  # a workdir or exported folder; "" for the distribution
    config.data = _common.imagenet()
    config.data.name = "photos"
    return config
