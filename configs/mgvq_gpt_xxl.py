"""MGVQ's second stage, GPT-XXL: class -> 576 positions of 4 indices -> 384x384 images (1.46 B).

The size whose samples MGVQ published (GPT_XXL_300ep_topk_12: top-k 4096, images drawn at 384 pixels
and resized to 256; its numbers are not public). Training is LlamaGen's (batch 256, learning rate
1e-4 without warm-up, weight decay 0.05, 300 epochs), on random crops instead of ten stored ones.

    python -m vqlab.main --config=configs/mgvq_gpt_xxl.py --workdir=DIR \\
        --config.objective.tokenizer=TOKENIZER

TOKENIZER is a workdir of configs/mgvq_f16.py or of any other tokenizer with indices, an exported
folder, or user/name of one on the Hugging Face Hub; the generator takes its sizes from there. Codes
can be made once instead of in every step:

    python -m vqlab.tokenize --config=configs/mgvq_gpt_xxl.py --what=indices \\
        --source=TOKENIZER --views=20 --output=RECORDS
    python -m vqlab.main ... --config.data.name=records --config.data.path=RECORDS

What it takes on a machine: python -m vqlab.plan --config=configs/mgvq_gpt_xxl.py --topology=v5e:4x8

Options, comma-separated: `groups=8`, the published tokenizer with eight; `image_size=N`; `fid`,
FID, Inception Score, precision and recall of samples in every evaluation, with
--config.inception_weights; `debug`, a run of seconds of a narrow network on the embedded
photographs, over a tokenizer of configs/mgvq_f16.py:debug.
"""

from configs import _gpt


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _gpt.training("XXL", argument)
