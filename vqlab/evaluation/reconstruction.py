"""Reconstruction quality of a tokenizer, for each number of groups or concepts kept."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from flax import struct

from vqlab.evaluation import names, panels
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.image_metrics import (
    GAUSSIAN_WINDOW,
    PSNR,
    CodebookUsage,
    add_to,
    mean_colour,
    ssim_gaussian,
    ssim_uniform,
)
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Codec, Units, Weights
from vqlab.models.pretrained.lpips import MIN_SIDE, lpips_distance

# Last part of a metric's name, less the group's number -> how it is measured.
PROTOCOLS = {
    "psnr": "dB, of the mean MSE over all images; floats in [0, 1], clipped (MGVQ, eval_recon.py)",
    "psnr_mean": "dB, mean over images of each image's PSNR; floats in [0, 1], clipped",
    "ssim": "7x7 uniform window on uint8 (floored), mean over images; as skimage (MGVQ)",
    "ssim_gaussian": "11x11 Gaussian window around every pixel, the border reflected, on floats in "
    "[0, 1], clipped; mean over images; as torchmetrics (Semanticist)",
    "ssim_gaussian_valid": "11x11 Gaussian window inside the image on floats in [0, 1], clipped; "
    "mean over images; as tf.image.ssim",
    "lpips": "VGG-16, version 0.1, images in [-1, 1], mean over images",
    "images_per_second": "encode and decode with all {noun}, median of {repeats} runs of one batch "
    "after compilation; no loading, no metrics",
    "usage": "share of the group's codewords chosen at least once on these images",
    "perplexity": "2**entropy of the group's codeword choices on these images",
    "entropy": "bits per index of the group, from the codeword frequencies on these images",
    "bits_per_pixel": "fixed-length indices: positions x groups x log2(codewords) / pixels",
    "entropy_bits_per_pixel": "ideal code per group: positions x sum of the groups' entropies / "
    "pixels",
    "num_images": "images evaluated, padding not counted",
}
# These depend on how the codec decodes.
SSIM = ("ssim", "ssim_gaussian", "ssim_gaussian_valid")
DECODED = ("psnr", "psnr_mean", *SSIM, "lpips", "images_per_second")
BASELINES = {
    "mean_colour": "of each image painted in its own mean colour",
    "mean_image": "with the mean of all evaluated images in the place of each",
}

TIMING_REPEATS = 3
EVERYTHING = "everything"  # the way of a tokenizer that has nothing to count


def describe(name: str, units: Units, setting: str = "") -> str:
    """One line on how the metric `name` of `ReconstructionEvaluator.run` is measured.

    `setting` is how the codec decodes.
    """
    _, way, kept, metric = names.parse_own(name)
    if way in BASELINES:
        return f"as {metric}, {BASELINES[way]}"
    if way:
        return f"as {metric}, {units.noun} kept: first {kept}, the others {units.absent}"
    text = PROTOCOLS[re.sub(r"_g\d+$", "", metric)]
    text = text.format(noun=units.noun or "latents", repeats=TIMING_REPEATS)
    return f"{text}; {setting}" if setting and name in DECODED else text


@struct.dataclass
class Quality:
    """Metric states of one way of reconstructing: PSNR, and means of one value per image by name.

    Among the names are those that are measured.
    """

    psnr: PSNR
    means: dict[str, Average]

    @classmethod
    def empty(cls, *, lpips: bool, ssim: Collection[str] = SSIM) -> Quality:
        """No images. Gaussian windows take ten times as long as uniform ones; both come or none."""
        names = (*ssim, "lpips") if lpips else ssim
        return cls(PSNR.empty(), {name: Average.empty() for name in names})

    def add(self, lpips_params: Any, images, reconstruction, mask) -> Quality:
        """With a batch; `lpips_params` is read only where LPIPS is measured."""
        values = {"ssim": ssim_uniform(images, reconstruction)}
        if "ssim_gaussian" in self.means:
            values |= ssim_gaussian(images, reconstruction)
        if "lpips" in self.means:
            values["lpips"] = lpips_distance(lpips_params, images, jnp.clip(reconstruction, -1, 1))
        return Quality(
            psnr=self.psnr.add(images, reconstruction, mask),
            means={name: add_to(mean, values[name], mask) for name, mean in self.means.items()},
        )

    def compute(self) -> dict[str, jax.Array]:
        """Scalars by name."""
        means = {name: mean.compute() for name, mean in self.means.items()}
        return self.psnr.compute() | means


class ReconstructionEvaluator(Evaluator):
    """Encodes a data set once, decodes it with growing numbers of units, and measures each.

    After `measure`, `originals` [n, H, W, 3] and `reconstructions` [L, n, H, W, 3] hold n images,
    evenly spread over all, and what each level makes of them (NumPy, in [-1, 1] but for a decoder's
    overshoot), and `protocol` says in one line how each metric was measured.

    Args:
      codec: of the tokenizer.
      make_batches: gives the batches of a split; "validation" is read twice.
      num_images_kept: n; fewer where the data set is smaller.
      networks: frozen networks that are given; with "lpips" LPIPS is measured.
      seed: of the decoder's noise, the same at every level.
    """

    uses: ClassVar[tuple[str, ...]] = ("lpips",)

    def __init__(
        self,
        codec: Codec,
        make_batches: MakeBatches,
        *,
        num_images_kept: int = 8,
        networks: Collection[str] = (),
        seed: int = 0,
    ):
        self._codec, self._units = codec, codec.units
        self._make_batches = make_batches
        self._num_images_kept = num_images_kept
        self._lpips = lpips = "lpips" in networks
        self._key = jax.random.key(seed)
        # The last one keeps everything.
        units = self._units
        self._ways = {names.first(k): k for k in units.levels} or {EVERYTHING: units.total}
        side = max(GAUSSIAN_WINDOW, MIN_SIDE if lpips else 1)
        self.needs = Needs({"validation": 1}, side=side)
        self.originals = np.zeros((0, 0, 0, 3), np.float32)
        self.reconstructions = np.zeros((len(self._ways), 0, 0, 0, 3), np.float32)
        self.protocol: dict[str, str] = {}
        # The number kept is an argument of the compiled function, so all decoders are one.
        self._encode = jax.jit(codec.encode)
        self._decode = jax.jit(codec.decode)
        self._observe = jax.jit(CodebookUsage.add)
        self._score = jax.jit(Quality.add)
        self._paint = jax.jit(mean_colour)
        self._sum = jax.jit(_sum_images)
        self._repeat = jax.jit(lambda image, images: jnp.broadcast_to(image, images.shape))

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of the tokenizer with these parameters, flat.

        `psnr`, `psnr_mean`, `ssim`, `ssim_gaussian`, `ssim_gaussian_valid` (and `lpips`) with
        everything, the same under `first_1/`, ..., `mean_colour/` and `mean_image/`;
        `images_per_second`, `num_images`. Of codewords also `usage_g0`, `perplexity_g0`,
        `entropy_g0`, ... per group, `bits_per_pixel`, `entropy_bits_per_pixel`.

        Raises:
          ValueError: there are no images, or LPIPS is wanted and its parameters are absent.
        """
        if self._lpips and "lpips" not in frozen:
            raise ValueError("LPIPS is to be measured but its weights were not given")
        lpips_params = frozen["lpips"] if self._lpips else None
        mean_image, count = self._mean_image()
        usage = None
        quality = {
            way: Quality.empty(lpips=self._lpips)
            for way in ["mean_colour", "mean_image", *self._ways]
        }
        gallery = Gallery(["images", *self._ways], self._num_images_kept, count)
        for number, batch in read(self._make_batches, "validation"):
            images, mask = batch["images"], batch["mask"]
            made = {
                "mean_colour": self._paint(images),
                "mean_image": self._repeat(mean_image, images),
            }
            code = self._encode(weights, images)
            key = jax.random.fold_in(self._key, number)
            for way, k in self._ways.items():
                made[way] = self._decode(weights, code, k, key)
            for way, pictures in made.items():
                quality[way] = self._score(quality[way], lpips_params, images, pictures, mask)
            if (size := self._codec.codebook_size) is not None:
                if usage is None:
                    usage = CodebookUsage.empty(code.shape[-1], size)
                usage = self._observe(usage, code, mask)
            gallery.add({"images": images, **made}, mask)

        self.originals, *reconstructions = gallery.pictures()
        self.reconstructions = np.stack(reconstructions)
        computed = {way: state.compute() for way, state in quality.items()}
        results = computed[list(self._ways)[-1]] | self._rates(usage, images, code)
        results["num_images"] = quality["mean_colour"].psnr.mse.count
        results["images_per_second"] = self._images_per_second(weights, images)
        computed.pop(EVERYTHING, None)
        results |= {f"{way}/{name}": x for way, xs in computed.items() for name, x in xs.items()}
        self.protocol = {name: describe(name, self._units, self._codec.setting) for name in results}
        return {name: float(to_host(value)) for name, value in results.items()}

    def pictures(self, results: Mapping[str, float]) -> tuple | None:
        """See `Evaluator`."""
        if not len(self.originals):
            return None
        return self.originals, self.reconstructions, self.headings(results)

    def headings(self, results: Mapping[str, float]) -> list[str]:
        """Over the columns of pictures: the original, then each level with its PSNR."""
        headings = ["original"]
        for way, k in self._ways.items():
            heading, name = panels.count_label(k, self._units.noun), f"{way}/psnr"
            if way == EVERYTHING:
                heading, name = "reconstruction", "psnr"
            if (psnr := results.get(name)) is not None:
                heading += f"\n{psnr:.2f} dB"
            headings.append(heading)
        return headings

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """Pictures, the table of results, and quality over the number kept."""
        own = measured.own(name)
        noun = self._units.noun
        heading, text = "Baselines", "Measured as above. "
        if noun:
            heading = f"By number of {noun}"
            text = f"Measured as above; {noun} beyond the first k are {self._units.absent}. "
        text += (
            "Mean colour paints each image in its own mean colour, mean image shows the mean of "
            "the evaluated images for each."
        )
        plots = panels.quality_plots(name, measured, self._units)
        table = panels.level_table(own, noun)
        return [
            panels.picture_section(
                self.originals,
                self.reconstructions,
                self.headings(own),
                self._units.levels,
                noun,
            ),
            Section("Results", panels.results_table(own, self.protocol) + panels.usage_plot(own)),
            Section(heading, f"<p>{text}</p>{plots}{table}"),
        ]

    def _mean_image(self) -> tuple[jax.Array, int]:
        """([H, W, 3] in [-1, 1], number of images) of the validation split."""
        total, count = 0.0, 0
        for _, batch in read(self._make_batches, "validation"):
            total, count = self._sum(total, count, batch["images"], batch["mask"])
        return total / jnp.maximum(count, 1), int(to_host(count))

    def _rates(self, usage: CodebookUsage | None, images, code) -> dict[str, Any]:
        if usage is None:
            return {}
        values = {name: to_host(x) for name, x in usage.compute().items()}
        results = {f"{name}_g{g}": x for name, xs in values.items() for g, x in enumerate(xs)}
        height, width = images.shape[1:3]
        positions = math.prod(code.shape[1:-1])
        results["bits_per_pixel"] = self._codec.bits(height, width) / (height * width)
        results["entropy_bits_per_pixel"] = values["entropy"].sum() * positions / (height * width)
        return results

    def _images_per_second(self, weights: Weights, images) -> float:
        seconds = []
        for _ in range(TIMING_REPEATS):
            start = time.perf_counter()
            code = self._encode(weights, images)
            jax.block_until_ready(self._decode(weights, code, self._units.total, self._key))
            seconds.append(time.perf_counter() - start)
        return images.shape[0] / float(np.median(seconds))


class Gallery:
    """Pictures of some images, evenly spread over a data set that comes in batches.

    Args:
      kinds: names of the pictures of an image.
      num_images: how many images; fewer where there are fewer.
      total: images of the data set.
    """

    def __init__(self, kinds: list[str], num_images: int, total: int):
        number = min(num_images, total)
        self._chosen = np.arange(number) * total // max(number, 1)
        self._kept: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        self._seen = 0

    def add(self, pictures: Mapping[str, Any], mask: Any) -> None:
        """A batch: of each kind [B, H, W, 3], where `mask` [B] is False padding."""
        rows = np.flatnonzero(to_host(mask))
        places = self._chosen - self._seen
        rows_kept = rows[places[(places >= 0) & (places < len(rows))]]
        self._seen += len(rows)
        for kind, kept in self._kept.items():
            if len(rows_kept) or not kept:  # an empty one tells the size of the images
                kept.append(to_host(pictures[kind])[rows_kept].astype(np.float32))

    def pictures(self) -> list[np.ndarray]:
        """[n, H, W, 3] of each kind."""
        return [np.concatenate(kept) for kept in self._kept.values()]


def _sum_images(total, count, images, mask):
    shown = jnp.where(mask[:, None, None, None], jnp.clip(images, -1, 1), 0)
    return total + jnp.sum(shown, axis=0), count + jnp.sum(mask, dtype=jnp.int32)
