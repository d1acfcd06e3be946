"""How the field measures, by name: numbers of two protocols are not comparable.

MGVQ's script is eval_recon.py; Semanticist's is its diffusion_trainer.py with a fork of
torch-fidelity. What each really does is in docs/measures.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vqlab.models.pretrained.inception_inputs import PREPARATIONS
from vqlab.registry import choose

PSNR_TEXTS = {
    "pooled": "dB, of the mean MSE over all images",
    "mean": "dB, mean over images of each image's PSNR",
    "batches": "dB, mean over batches of 64 of the PSNR of their mean MSE",
}
SSIM_TEXTS = {
    "ssim": "7x7 uniform window on uint8",
    "ssim_gaussian": "11x11 Gaussian window around every pixel, the border reflected",
    "ssim_gaussian_valid": "11x11 Gaussian window inside the image",
}
ROUNDING_TEXTS = {"floor": "floored to uint8", "round": "rounded to uint8"}
CROP_TEXTS = {
    "adm": "ADM's centre crop (halved by a box filter, then bicubic)",
    "cover": "bicubic to the shorter side, centre crop",
    "torchvision": "torchvision's bilinear Resize and CenterCrop",
    "whole": "whole images",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way of measuring.

    Attributes:
      name: what numbers of it are called.
      source: whose it is.
      preparation: what stands before Inception; see `inception_inputs`.
      crop: of the images that are reconstructed, a name of `CROP_TEXTS`.
      reference_crop: of the images that reconstructions are compared with as a set, another crop or
        the same.
      rounding: of reconstructions to uint8, before Inception and SSIM on uint8.
      psnr: over what the mean is taken, a name of `PSNR_TEXTS`; MSE is of floats in [0, 1].
      ssim: a name of `SSIM_TEXTS`.
      clips: whether reconstructions are clipped before PSNR and SSIM.
      lpips_range: of the images that LPIPS takes, which it was made for in [-1, 1].
      score_chunk: Inception Score of chunks of so many images as they come, as ADM; 0: of ten parts
        in torch-fidelity's order.
      measures: what is measured if nothing else is asked for.
    """

    name: str
    source: str
    preparation: str
    crop: str = "adm"
    reference_crop: str = "adm"
    rounding: str = "floor"
    psnr: str = "pooled"
    ssim: str = "ssim"
    clips: bool = True
    lpips_range: tuple[int, int] = (-1, 1)
    score_chunk: int = 0
    measures: tuple[str, ...] = ("fid", "kid", "psnr", "ssim", "lpips")

    def of(self, crop: str) -> Protocol:
        """The same of other crops, on both sides, such as "whole" images."""
        return dataclasses.replace(self, crop=crop, reference_crop=crop)

    @property
    def reference(self) -> tuple[str, str]:
        """(crop, preparation) of the images that samples are compared with."""
        return self.reference_crop, self.preparation

    def describe(self, metric: str) -> str:
        """How the last part of a metric's name is measured, in one line that names the protocol."""
        return f"{self.name}: {self._texts(metric)}"

    def _texts(self, metric: str) -> str:
        inception = f"{PREPARATIONS[self.preparation].text}; {ROUNDING_TEXTS[self.rounding]}; "
        inception += CROP_TEXTS[self.crop]
        if self.reference_crop != self.crop:
            inception += f"; reference: {CROP_TEXTS[self.reference_crop]}"
        clipped = "clipped" if self.clips else "not clipped"
        low, high = self.lpips_range
        score = "of ten parts in torch-fidelity's order"
        if self.score_chunk:
            score = f"of chunks of {self.score_chunk} images"
        return {
            "fid": f"Frechet distance of Inception's pooled features; {inception}",
            "sfid": f"Frechet distance of Inception's map mixed_6/conv; {inception}",
            "kid": "MMD^2, cubic kernel, over all images, without bias (no image with its own "
            f"number, where both sides have as many); {inception}",
            "kid_subsets": "mean MMD^2 of torch-fidelity's 100 subsets of 1000; " + inception,
            "kid_subsets_std": "their deviation",
            "is": f"Inception Score {score}, mean; {inception}",
            "is_std": "their deviation",
            "precision": f"share of the samples within the reference's 3rd neighbours; {inception}",
            "recall": f"share of the reference within the samples' 3rd neighbours; {inception}",
            "psnr": f"{PSNR_TEXTS[self.psnr]}; floats in [0, 1], {clipped}",
            "ssim": f"{SSIM_TEXTS[self.ssim]}, mean over images, {self._ssim_values(clipped)}",
            "lpips": f"VGG-16, version 0.1, images in [{low}, {high}], mean over images",
            "num_images": "images measured",
        }[metric]

    def _ssim_values(self, clipped: str) -> str:
        if self.ssim == "ssim":
            return ROUNDING_TEXTS[self.rounding]
        return f"floats in [0, 1], {clipped}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "mgvq",
            "MGVQ, eval_recon.py: clean-fid between crops and reconstructions",
            preparation="clean",
            crop="cover",
            reference_crop="cover",
            lpips_range=(0, 1),
        ),
        Protocol(
            "semanticist",
            "Semanticist: torch-fidelity against other crops, torchmetrics by batches",
            preparation="tf1",
            reference_crop="torchvision",
            psnr="batches",
            ssim="ssim_gaussian",
            clips=False,
            measures=("fid", "kid", "is", "psnr", "ssim", "lpips"),
        ),
        Protocol(
            "clean",
            "vqlab's own: clean-fid's resize, the same crops, rounded",
            preparation="clean",
            rounding="round",
        ),
        Protocol(
            "adm",
            "ADM's evaluator, for samples",
            preparation="tf1",
            score_chunk=5000,
            measures=("fid", "sfid", "kid", "is", "pr", "psnr", "ssim", "lpips"),
        ),
    )
}
DEFAULT = "clean"


def protocols_of(names: str | Sequence[str], crop: str = "") -> tuple[Protocol, ...]:
    """Those of the names, a text with commas between or a sequence; of a crop in place of theirs.

    Raises:
      ValueError: an unknown one, with the known ones, or none.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    chosen = [choose("protocol", name, PROTOCOLS) for name in dict.fromkeys(filter(None, names))]
    if not chosen:
        raise ValueError(f"no protocol; choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol.of(crop) if crop else protocol for protocol in chosen)
