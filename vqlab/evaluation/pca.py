"""Principal components of the pixels: the linear tokenizer that ordered ones are measured by."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from sklearn.decomposition import PCA

from vqlab.evaluation import panels
from vqlab.evaluation.batches import MakeBatches, check_split, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.image_metrics import PSNR
from vqlab.evaluation.names import components, parse_own
from vqlab.evaluation.needs import Needs, Unmeasurable
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Codec, Weights

VARIANCE = "1 - squared error / squared distance from the mean, pixels not clipped; {fit}"
QUALITY = "dB, of the mean MSE over all images; floats in [0, 1], clipped; {fit}"

MIN_FITTED = 2  # images about their mean have one component less


class PCABaseline(Evaluator):
    """Reconstructs images from their first k principal components, k = 1, 2, 4, ... and those that
    hold as many numbers as the code's levels.

    Args:
      codec: says which numbers of components to compare with; its model is not run.
      make_batches: gives the batches of a split. Those of `fit_split` are held in memory twice.
      fit_split: whose images the components are fitted to. What is measured is always "validation".
      max_components: at most so many; also bounded by the images that they are fitted to.
      seed: of the randomised decomposition of large data.
    """

    def __init__(
        self,
        codec: Codec,
        make_batches: MakeBatches,
        *,
        fit_split: str = "train",
        max_components: int = 256,
        seed: int = 0,
    ):
        check_split(fit_split)
        if max_components < 1:
            raise ValueError(f"max_components={max_components} must be at least 1")
        self._codec = codec
        self._make_batches = make_batches
        self._fit_split = fit_split
        self._max_components = max_components
        self._seed = seed
        self._results: dict[str, float] = {}
        self.needs = Needs({"validation": 1, fit_split: MIN_FITTED})
        self.protocol: dict[str, str] = {}
        self._add = jax.jit(Fit.add)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`psnr` and `explained_variance` under `components_1/`, `components_2/`, ....

        The weights are not used: this is what any tokenizer has to beat, and measured once.

        Raises:
          Unmeasurable: there are too few images to fit one component.
          ValueError: there are no images.
        """
        del weights, frozen
        if not self._results:
            self._results = self._measure()
        return dict(self._results)

    def _measure(self) -> dict[str, float]:
        images = self._images()
        mean, basis = fit_components(images, self._max_components, self._seed)
        num_fitted, shape = len(images), images.shape[1:]
        del images
        ks = self._numbers(len(basis))
        fits = {k: Fit.empty() for k in ks}
        fitted = jnp.asarray(mean.reshape(shape)), jnp.asarray(basis.reshape(-1, *shape))
        for _, batch in read(self._make_batches, "validation"):
            for k in ks:
                fits[k] = self._add(fits[k], *fitted, k, batch["images"], batch["mask"])
        results = {}
        for k, fit in fits.items():
            for name, value in fit.compute().items():
                results[components(k, name)] = float(to_host(value))
        how = f"components of {num_fitted} {self._fit_split} images"
        texts = {"psnr": QUALITY.format(fit=how), "explained_variance": VARIANCE.format(fit=how)}
        self.protocol = {name: texts[parse_own(name).metric] for name in results}
        return results

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """The table; the curves stand in the other evaluators' plots."""
        # All levels of a metric are measured in one way.
        texts = {parse_own(metric).metric: text for metric, text in self.protocol.items()}
        text = "".join(f"<p>{metric}: {escape(text)}.</p>" for metric, text in texts.items())
        table = panels.level_table(measured.own(name), "components of pixels")
        return [Section("Principal components", text + table)]

    def _numbers(self, limit: int) -> list[int]:
        """Numbers of components up to `limit`."""
        powers = {2**i for i in range(limit.bit_length())}
        levels = set(self._codec.units.levels)
        numbers = {k * self._codec.units.numbers for k in levels}
        return sorted(k for k in powers | levels | numbers | {limit} if 0 < k <= limit)

    def _images(self) -> np.ndarray:
        images = []
        for _, batch in read(self._make_batches, self._fit_split):
            shown = to_host(batch["images"])[to_host(batch["mask"])]
            images.append(np.clip(shown, -1, 1).astype(np.float32))
        return np.concatenate(images)


def fit_components(
    images: np.ndarray, max_components: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mean [P], components [k, P]) of images [N, H, W, 3] with P = 3 H W; orthonormal rows.

    k is `max_components`, or as many as N images about their mean can have. Large data are
    decomposed with random projections (scikit-learn's "auto" solver).

    Raises:
      Unmeasurable: fewer than two images.
    """
    if len(images) < MIN_FITTED:
        raise Unmeasurable(f"PCA needs at least {MIN_FITTED} images, got {len(images)}")
    pixels = images.reshape(len(images), -1)
    limit = min(max_components, len(pixels) - 1, pixels.shape[1])
    fitted = PCA(limit, random_state=seed).fit(pixels)
    return fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32)


@struct.dataclass
class Fit:
    """Metric states of reconstructions from k components."""

    psnr: PSNR
    error: jax.Array
    spread: jax.Array

    @classmethod
    def empty(cls) -> Fit:
        """No images."""
        return cls(PSNR.empty(), jnp.float32(0), jnp.float32(0))

    def add(self, mean, components, k, images, mask) -> Fit:
        """With a batch; mean [H, W, 3], components [n, H, W, 3], of which the first k count."""
        images = jnp.clip(images, -1, 1)
        centred = jnp.where(mask[:, None, None, None], images - mean, 0)
        exact = jax.lax.Precision.HIGHEST
        scores = jnp.einsum("bhwc,nhwc->bn", centred, components, precision=exact)
        scores = jnp.where(jnp.arange(len(components)) < k, scores, 0)
        fitted = jnp.einsum("bn,nhwc->bhwc", scores, components, precision=exact)
        return Fit(
            psnr=self.psnr.add(images, mean + fitted, mask),
            error=self.error + jnp.sum(jnp.square(centred - fitted)),
            spread=self.spread + jnp.sum(jnp.square(centred)),
        )

    def compute(self) -> dict[str, jax.Array]:
        """Scalars by name."""
        return {
            "psnr": self.psnr.compute()["psnr"],
            "explained_variance": 1 - self.error / self.spread,
        }
