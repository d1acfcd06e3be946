"""Reconstruction quality of a tokenizer, for each number of groups."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import multihost_utils

from vqlab.evaluation.image_metrics import (
    PSNR,
    CodebookUsage,
    Mean,
    bits_per_pixel,
    mean_colour,
    ssim_gaussian,
    ssim_uniform,
)
from vqlab.models.pretrained.lpips import lpips_distance

# Last part of a metric's name, less the group's number -> how it is measured.
PROTOCOLS = {
    "psnr": "dB, of the mean MSE over all images; floats in [0, 1], clipped (MGVQ, eval_recon.py)",
    "psnr_mean": "dB, mean over images of each image's PSNR; floats in [0, 1], clipped",
    "ssim": "7x7 uniform window on uint8 (floored), mean over images; as skimage (MGVQ)",
    "ssim_gaussian": "11x11 Gaussian window on floats in [0, 1], mean over images; as torchmetrics",
    "lpips": "VGG-16, version 0.1, images in [-1, 1], mean over images",
    "usage": "share of the group's codewords chosen at least once on these images",
    "perplexity": "2**entropy of the group's codeword choices on these images",
    "entropy": "bits per index of the group, from the codeword frequencies on these images",
    "bits_per_pixel": "fixed-length indices: groups x log2(codewords per group) / stride**2",
    "entropy_bits_per_pixel": "ideal code per group: sum of the groups' entropies / stride**2",
    "images_per_second": "encode and decode with all groups, median of {repeats} runs of one batch "
    "after compilation; no loading, no metrics",
    "num_images": "images evaluated, padding not counted",
}

TIMING_REPEATS = 3


def describe(name: str) -> str:
    """One line on how the metric `name` of `ReconstructionEvaluator.run` is measured."""
    prefix, _, last = name.rpartition("/")
    if prefix == "mean_colour":
        return f"as {last}, of each image painted in its own mean colour"
    if prefix:
        return f"as {last}, groups kept: first {prefix.removeprefix('groups_')}, the others zero"
    return PROTOCOLS[re.sub(r"_g\d+$", "", last)].format(repeats=TIMING_REPEATS)


@struct.dataclass
class Quality:
    """Metric states of one way of reconstructing; `lpips` is None where it is not measured."""

    psnr: PSNR
    ssim: Mean
    ssim_gaussian: Mean
    lpips: Mean | None

    @classmethod
    def empty(cls, *, lpips: bool) -> Quality:
        """No images."""
        return cls(PSNR.empty(), Mean.empty(), Mean.empty(), Mean.empty() if lpips else None)

    def add(self, lpips_params: Any, images, reconstruction, mask) -> Quality:
        """With a batch; `lpips_params` is read only where LPIPS is measured."""
        lpips = self.lpips
        if lpips is not None:
            distance = lpips_distance(lpips_params, images, jnp.clip(reconstruction, -1, 1))
            lpips = lpips.add(distance, mask)
        return Quality(
            psnr=self.psnr.add(images, reconstruction, mask),
            ssim=self.ssim.add(ssim_uniform(images, reconstruction), mask),
            ssim_gaussian=self.ssim_gaussian.add(ssim_gaussian(images, reconstruction), mask),
            lpips=lpips,
        )

    def compute(self) -> dict[str, jax.Array]:
        """Scalars by name."""
        values = self.psnr.compute()
        means = {"ssim": self.ssim, "ssim_gaussian": self.ssim_gaussian, "lpips": self.lpips}
        return values | {name: mean.compute() for name, mean in means.items() if mean is not None}


class ReconstructionEvaluator:
    """Encodes a data set once, decodes it with 1..G groups, and measures each.

    After `run`, `originals` [n, H, W, 3] and `reconstructions` [G, n, H, W, 3] hold the first n
    images and what the first 1..G groups make of them (NumPy, in [-1, 1] but for a decoder's
    overshoot), and `protocol` says in one line how each metric was measured.

    Args:
      tokenizer: an unbound `Tokenizer` with a `GroupedQuantizer`.
      make_batches: called once a run; gives batches {"images": [B, H, W, 3], "mask": [B] bool} of
        one shape, NumPy or (sharded) JAX arrays.
      num_images_kept: n; fewer where the data set is smaller.
      lpips: whether to measure LPIPS, with the parameters in `frozen["lpips"]`.
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        make_batches: Callable[[], Iterable[Mapping[str, Any]]],
        *,
        num_images_kept: int = 8,
        lpips: bool = False,
    ):
        self._tokenizer = tokenizer
        self._make_batches = make_batches
        self._num_images_kept = num_images_kept
        self._lpips = lpips
        self.num_groups = tokenizer.quantizer.num_groups
        self.originals = np.zeros((0, 0, 0, 3), np.float32)
        self.reconstructions = np.zeros((self.num_groups, 0, 0, 0, 3), np.float32)
        self.protocol: dict[str, str] = {}
        # The number of groups is an argument of the compiled function, so G decoders are one.
        self._encode = jax.jit(self._encode_images)
        self._decode = jax.jit(self._decode_indices)
        self._observe = jax.jit(lambda usage, indices, mask: usage.add(indices, mask))
        self._score = jax.jit(Quality.add)
        self._paint = jax.jit(mean_colour)

    def run(self, params: Any, variables: Any, frozen: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of the tokenizer with these parameters, flat.

        `psnr`, `psnr_mean`, `ssim`, `ssim_gaussian` (and `lpips`) with all groups, the same under
        `groups_1/` ... `groups_G/` and `mean_colour/`; per group `usage_g0`, `perplexity_g0`,
        `entropy_g0`, ...; `bits_per_pixel`, `entropy_bits_per_pixel`, `images_per_second`,
        `num_images`.

        Raises:
          ValueError: there are no images, or LPIPS is wanted and its parameters are absent.
        """
        if self._lpips and "lpips" not in frozen:
            raise ValueError("LPIPS is to be measured but its weights were not given")
        lpips_params = frozen["lpips"] if self._lpips else None
        variables = {"params": params, **variables}
        ways = [f"groups_{k}" for k in range(1, self.num_groups + 1)]
        quality = {way: Quality.empty(lpips=self._lpips) for way in ["mean_colour", *ways]}
        usage = CodebookUsage.empty(self.num_groups, self._tokenizer.quantizer.codebook_size)
        kept: dict[str, list[np.ndarray]] = {way: [] for way in ["images", *ways]}
        images = None
        for batch in self._make_batches():
            images, mask = batch["images"], batch["mask"]
            made = {"mean_colour": self._paint(images)}
            indices = self._encode(variables, images)
            for k, way in enumerate(ways, start=1):
                made[way] = self._decode(variables, indices, k)
            for way, pictures in made.items():
                quality[way] = self._score(quality[way], lpips_params, images, pictures, mask)
            usage = self._observe(usage, indices, mask)
            self._keep(kept, {"images": images, **made}, mask)
        if images is None:
            raise ValueError("there are no images to evaluate on")

        self.originals = np.concatenate(kept["images"])
        self.reconstructions = np.stack([np.concatenate(kept[way]) for way in ways])
        computed = {way: state.compute() for way, state in quality.items()}
        results = computed[ways[-1]] | self._rates(usage)
        results["num_images"] = quality["mean_colour"].psnr.mse.count
        results["images_per_second"] = self._images_per_second(variables, images)
        results |= {f"{way}/{name}": x for way, xs in computed.items() for name, x in xs.items()}
        self.protocol = {name: describe(name) for name in results}
        return {name: float(_to_host(value)) for name, value in results.items()}

    def _encode_images(self, variables, images):
        return self._tokenizer.apply(variables, images, method="encode").indices

    def _decode_indices(self, variables, indices, num_groups):
        """As `decode_indices(indices, num_groups=num_groups)`, with a traced number of groups."""

        def decode(tokenizer, indices):
            latents = tokenizer.quantizer.lookup(indices)
            channels_per_group = latents.shape[-1] // self.num_groups
            used = jnp.arange(latents.shape[-1]) // channels_per_group < num_groups
            return tokenizer.decode(jnp.where(used, latents, 0))

        return self._tokenizer.apply(variables, indices, method=decode)

    def _rates(self, usage: CodebookUsage) -> dict[str, Any]:
        values = {name: _to_host(x) for name, x in usage.compute().items()}
        results = {f"{name}_g{g}": x for name, xs in values.items() for g, x in enumerate(xs)}
        stride = self._tokenizer.stride
        codebook_size = self._tokenizer.quantizer.codebook_size
        results["bits_per_pixel"] = bits_per_pixel(self.num_groups, codebook_size, stride)
        results["entropy_bits_per_pixel"] = values["entropy"].sum() / stride**2
        return results

    def _keep(self, kept: dict[str, list], pictures: Mapping[str, Any], mask: Any) -> None:
        """Appends what is still missing of the first n images that are not padding."""
        missing = self._num_images_kept - sum(len(x) for x in kept["images"])
        if missing <= 0 and kept["images"]:
            return
        rows = np.flatnonzero(_to_host(mask))[: max(missing, 0)]
        for name in kept:
            kept[name].append(_to_host(pictures[name])[rows].astype(np.float32))

    def _images_per_second(self, variables, images) -> float:
        seconds = []
        for _ in range(TIMING_REPEATS):
            start = time.perf_counter()
            indices = self._encode(variables, images)
            jax.block_until_ready(self._decode(variables, indices, self.num_groups))
            seconds.append(time.perf_counter() - start)
        return images.shape[0] / float(np.median(seconds))


def _to_host(x: Any) -> np.ndarray:
    """NumPy of the whole array, also where its shards lie on other hosts."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
