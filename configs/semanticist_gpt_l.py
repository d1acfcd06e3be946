"""Semanticist's second stage: class -> the first 32 of 256 concepts -> 256x256 images (489 M).

Reproduces the published model (Semanticist, section 4.4, appendix C.2): LlamaGen-L's transformer
with a diffusion head of 12 blocks, batch 2048, learning rate 8e-4 after 100 epochs of warm-up, 400
epochs, on the concepts of configs/semanticist_l.py, whose decoder goes without guidance. Published
on ImageNet-256 with guidance 6 growing linearly and 250 steps in head and decoder: gFID 2.57.

Where the paper and the released code disagree this follows the paper: there, with stored latents,
the warm-up is 2 M steps, longer than the training. Random crops replace the twenty stored ones.

    python -m vqlab.main --config=configs/semanticist_gpt_l.py --workdir=DIR \\
        --config.objective.tokenizer=TOKENIZER

TOKENIZER is the workdir of a Semanticist, an exported folder, or user/name of one on the Hugging
Face Hub. Concepts can be made once instead of in every step:

    python -m vqlab.tokenize --config=configs/semanticist_gpt_l.py --what=concepts \\
        --source=TOKENIZER --views=20 --output=RECORDS
    python -m vqlab.main ... --config.data.name=records --config.data.path=RECORDS

Options, comma-separated: `ddpm`, the released alternative to the straight path: a cosine schedule
with a learned variance, its condition added to the time ("adaln"); `fid`, FID, Inception
Score, precision and recall of samples in every evaluation, with --config.inception_weights;
`debug`, a run of seconds of a narrow network on the embedded photographs, over a tokenizer of
configs/semanticist_l.py:debug.
"""

import ml_collections

from configs import _common, _gpt, _semanticist, semanticist_l


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """The config; see the options above."""
    options = _common.parse_argument(argument, ddpm=False, fid=False, debug=False)
    config = _common.training()
    config.num_steps = 250_000
    config.batch_size = 2048
    config.image_size = 256
    config.ema_decay = 0.999
    config.sharding = _gpt.SHARDING
    config.model = _model()
    config.objective = _gpt.objective()
    config.objective.draws_per_token = 4  # times and noises for each concept
    config.sampling = _sampling()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.generator = _common.optimizer(
        8e-4, weight_decay=0.05, warmup_steps=100 * _semanticist.STEPS_PER_EPOCH
    )
    config.data = _common.imagenet()
    config.augment = _gpt.augment()
    config.evals = _gpt.evaluations(256, batch_size=64)
    config.checkpoint.best_metric = "likelihood/loss"
    config.checkpoint.best_mode = "min"
    if options["fid"]:
        _gpt.add_fid(config, batch_size=64)
    if options["ddpm"]:
        config.model.process = _semanticist.ddpm()
        config.model.process.schedule = "cosine"
        config.model.head_conditioning = "adaln"
    if options["debug"]:
        _shrink(config)
    return config.lock()


def _model() -> ml_collections.ConfigDict:
    width, depth, heads, _ = _gpt.SIZES["L"]
    node = ml_collections.ConfigDict()
    node.name = "concept_generator"
    node.tokenizer = _semanticist.model("L", dtype="float32")
    node.image_size = 256
    node.num_classes = 1000  # 0 for none, with config.sampling.guidance_scale=1.0
    node.num_kept = 32  # concepts that are modelled; the decoder reads nulls for the others
    node.width = width
    node.depth = depth
    node.num_heads = heads
    node.num_class_tokens = 1
    node.process = _semanticist.flow()
    node.process.time_scale = 1.0  # as released, though embeddings are made for 0..1000
    node.process.sampler = "euler_maruyama"
    node.head_width = 1536
    node.head_depth = 12
    node.head_conditioning = "concat"
    node.dropout = 0.1
    node.label_dropout = 0.1
    node.dtype = "bfloat16"
    return node


def _sampling() -> ml_collections.ConfigDict:
    node = ml_collections.ConfigDict()
    node.guidance_scale = 6.0
    node.guidance_schedule = "linear"  # from 1 + 5 / 32 at the first concept to 6 at the last
    node.guidance_interval = -1  # guidance ends after so many concepts; -1: never
    node.temperature = 1.0
    node.num_steps = 250  # of the head
    node.sampler = ""  # "" for the process's own
    node.decoding = _semanticist.sampling()  # of the tokenizer
    node.decoding.guidance_scale = 1.0
    return node


def _shrink(config: ml_collections.ConfigDict) -> None:
    _gpt.shrink(config, image_size=32)
    config.model.tokenizer = semanticist_l.get_config("debug").model
    config.model.update(num_kept=4, width=32, depth=2, num_heads=2, head_width=32, head_depth=1)
    config.optimizer.generator.warmup_steps = 2
    config.sampling.num_steps = config.sampling.decoding.num_steps = 4
