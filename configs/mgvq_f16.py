"""MGVQ f16: 256x256 images become 16x16 positions x G indices.

Reproduces the architecture of mgvq-f16c32 (MGVQ, Table I): 216 M parameters; 4 groups of 8192
codewords (13,312 bits per image) or, with `:groups=8`, 8 groups of 2048 (22,528 bits).
Published on ImageNet-256: rFID 0.64, PSNR 23.71, SSIM 0.755 (G4); 0.49, 24.70, 0.787 (G8).

MGVQ's training recipe is not public. Losses, weights, optimizer and augmentation here are those of
LlamaGen's VQ tokenizer, whose files MGVQ's derive from; the length follows the name of a released
checkpoint (540k steps). The nested masking probabilities for 4 groups stand in a comment of the
released file; those for 8 groups are ours.

Training has two stages, as the released file hints: masked, then unmasked from the first's weights.
How long each was is not published; here both are 540k steps, and the second may stop earlier.

    python -m vqlab.main --config=configs/mgvq_f16.py --workdir=DIR \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth
    python -m vqlab.main --config=configs/mgvq_f16.py:finetune --workdir=DIR2 \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth --config.init_from=DIR

Cost: fits a TPU slice v5e:4x8. What it takes there or elsewhere:

    python -m vqlab.plan --config=configs/mgvq_f16.py --topology=v5e:4x8

Options, comma-separated: `groups=8`; `finetune`, the second stage; `bottleneck=NAME`, another one
on the same backbone: `vq16384`, `fsq`, `lfq`, `bsq` or `vae` (configs/_bottlenecks.py, PUBLISHED);
`analyses`, those of Semanticist over the number of groups, in every evaluation; `fid`, likewise,
with --config.inception_weights; `debug`, a run of seconds of a narrow network on the embedded
photographs.
"""

from configs import _mgvq


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _mgvq.training("f16", argument)
