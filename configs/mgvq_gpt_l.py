"""MGVQ's second stage, GPT-L: class -> 256 positions of 4 indices -> 256x256 images (361 M).

Reproduces no published number: MGVQ released this size's architecture alone. Training is LlamaGen's
(batch 256, learning rate 1e-4 without warm-up, weight decay 0.05, 300 epochs), on random crops
instead of ten stored ones.

    python -m vqlab.main --config=configs/mgvq_gpt_l.py --workdir=DIR \\
        --config.objective.tokenizer=TOKENIZER

TOKENIZER is a workdir of configs/mgvq_f16.py or of any other tokenizer with indices, an exported
folder, or user/name of one on the Hugging Face Hub; the generator takes its sizes from there. Codes
can be made once instead of in every step:

    python -m vqlab.tokenize --config=configs/mgvq_gpt_l.py --what=indices \\
        --source=TOKENIZER --views=20 --output=RECORDS
    python -m vqlab.main ... --config.data.name=records --config.data.path=RECORDS

What it takes on a machine: python -m vqlab.plan --config=configs/mgvq_gpt_l.py --topology=v5e:4x8

Options, comma-separated: `groups=8`, the published tokenizer with eight; `image_size=N`; `fid`,
FID, Inception Score, precision and recall of samples in every evaluation, with
--config.inception_weights; `debug`, a run of seconds of a narrow network on the embedded
photographs, over a tokenizer of configs/mgvq_f16.py:debug.
"""

from configs import _gpt


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _gpt.training("L", argument)
