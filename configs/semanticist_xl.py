"""Semanticist with a DiT-XL decoder: 256x256 images become 256 ordered concepts of 16 numbers.

Reproduces the published model (Semanticist, Table 1): ViT-B/16 encoder (86 M parameters) and
DiT-XL/2 decoder (674 M) on the latents of MAR's KL-16 autoencoder, batch 2048, 400 epochs.
Published on ImageNet-256 with 250 steps: rFID 0.72, PSNR 21.43, SSIM 0.613.

Where the paper and the released code disagree this follows the paper: no weight decay (the code
has 0.05), and the learning rate's cosine ends at 0 (the code's at 15 % of the peak). The first 50
epochs train with all concepts, from then on each sample keeps a random prefix. The published runs
have REPA on, which needs the weights of DINOv2: that is the option `repa`.

    python -m vqlab.main --config=configs/semanticist_xl.py:repa --workdir=DIR \\
        --config.objective.latent_weights=kl16.ckpt \\
        --config.objective.repa_weights=dinov2_vitb14_pretrain.pth

Cost: fits a TPU slice v5e:8x16 when eight chips share the state. What it takes there or elsewhere:

    python -m vqlab.plan --config=configs/semanticist_xl.py:repa --topology=v5e:8x16 \\
        --config.mesh.fsdp=8

Options, comma-separated: `concepts=64` (128, 32, 16), with 4096 / concepts numbers each;
`quantized`, each concept as 4 indices of 8192 codewords, which is not published; `repa`; `flow`,
the straight path and its velocity instead of the published DDPM; `fid`, in every evaluation, with
--config.inception_weights; `debug`, a run of seconds of a narrow network on pixels of the embedded
photographs.

The autoencoder and DINOv2 can be run once instead of in every step:

    python -m vqlab.tokenize --config=configs/semanticist_xl.py --what=latents --output=RECORDS
    python -m vqlab.main ... --config.data.name=records --config.data.path=RECORDS
"""

from configs import _semanticist


def get_config(argument: str = ""):
    """The config; see the options above."""
    return _semanticist.training("XL", argument)
