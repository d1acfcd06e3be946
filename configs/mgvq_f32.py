"""MGVQ f32: 256x256 images become 8x8 positions x G indices.

Reproduces the architecture of mgvq-f32c32: 324 M parameters; 4 groups of 8192
codewords (3,328 bits per image) or, with `:groups=8`, 8 groups of 2048 (5,632 bits).
The released f32 checkpoint has 8 groups and was trained on a mix of data; no figures of it are
published.

MGVQ's training recipe is not public. Losses, weights, optimizer and augmentation here are those of
LlamaGen's VQ tokenizer, whose files MGVQ's derive from; the length follows the name of a released
checkpoint (540k steps). The nested masking probabilities for 4 groups stand in a comment of the
released file; those for 8 groups are ours.

Training has two stages, as the released file hints: masked, then unmasked from the first's weights.
How long each was is not published; here both are 540k steps, and the second may stop earlier.

    python -m vqlab.main --config=configs/mgvq_f32.py --workdir=DIR \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth
    python -m vqlab.main --config=configs/mgvq_f32.py:finetune --workdir=DIR2 \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth --config.init_from=DIR

Cost: fits a TPU slice v5e:4x8. What it takes there or elsewhere:

    python -m vqlab.plan --config=configs/mgvq_f32.py --topology=v5e:4x8

Options, comma-separated: `groups=8`; `finetune`, the second stage; `bottleneck=NAME`, another one
on the same backbone: `vq16384`, `fsq`, `lfq`, `bsq` or `vae` (configs/_bottlenecks.py, PUBLISHED);
`analyses`, those of Semanticist over the number of groups, in every evaluation; `fid`, likewise,
with --config.inception_weights; `debug`, a run of seconds of a narrow network on the embedded
photographs.
"""

from configs import _mgvq


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _mgvq.training("f32", argument)
