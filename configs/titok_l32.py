"""TiTok-L-32: 256x256 images become 32 tokens of 4096 codewords.

Reproduces the published model (arXiv 2406.07550; 1d-tokenizer's titok_l32.yaml): two transformers
of size L, 610.3 M parameters in stage 1 and 641.1 M with the pixel decoder of stage 2. Published on
ImageNet-256: rFID 2.21 after both stages. What differs from the published training is listed in
configs/_titok.py: LPIPS stands for the ConvNeXt-S perceptual loss, and there is no LeCam.

Stage 1 learns to predict the codes of MaskGIT's VQGAN; stage 2 trains the decoder, and a copy of
that VQGAN's, on pixels:

    python -m vqlab.main --config=configs/titok_l32.py:stage1 --workdir=STAGE1 \\
        --config.objective.pixel_tokenizer_weights=maskgit-vqgan-imagenet-f16-256.bin
    python -m vqlab.main --config=configs/titok_l32.py:stage2 --workdir=STAGE2 \\
        --config.init_from=STAGE1 --config.objective.lpips_weights=vgg16.pth,vgg.pth

The option `pixels` takes no outside tokenizer: one stage, and a decoder that gives pixels.

    python -m vqlab.main --config=configs/titok_l32.py:pixels --workdir=DIR \\
        --config.objective.lpips_weights=vgg16.pth,vgg.pth

Published weights are those of stage 2:

    python -m vqlab.convert from-official titok_l32.safetensors OUT --config=configs/titok_l32.py

Cost: what it takes on a slice of chips:

    python -m vqlab.plan --config=configs/titok_l32.py:stage1 --topology=v5e:4x8

Options, comma-separated: one of `stage1`, `stage2` (the default) and `pixels`; `analyses`;
`fid`, in every evaluation, with --config.inception_weights; `debug`, a run of seconds of a narrow
network on the embedded photographs.
"""

from configs import _titok


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _titok.training("L", 32, argument)
