"""How much of what can be explained the first n groups or concepts explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.evaluation import panels
from vqlab.evaluation.batches import MakeBatches, read, to_host
from vqlab.evaluation.evaluator import Evaluator
from vqlab.evaluation.names import first
from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section
from vqlab.models.codec import Codec, Weights

SHARE = "(L(0) - L(n)) / (L(0) - L(all)), of the mean loss L(n) with the first n {noun}"
LOSS = (
    "mean over images; draws of time and noise for each, where there are any: {repeats}, the same "
    "for every n; squared error of the decoder's prediction (diffusion), or of the pixels in [0, 1]"
)


class ExplainedVariance(Evaluator):
    """The share of the loss's reduction that the first n units reach.

    Semanticist, section 5.3: the upper end is the loss given nothing, the lower end the loss given
    everything. Where the steps of the curve shrink, the units are ordered as principal components
    are.

    The loss given nothing is a fair upper end only of a decoder that was trained on nothing too:
    Semanticist's with `condition_dropout` until nesting starts, then with `null_share`; MGVQ's
    never is.

    Args:
      codec: of the tokenizer.
      make_batches: gives the batches of a split; "validation" is read.
      repeats: draws of time and noise for each image; more make the curve less noisy. One is
        enough for a decoder without noise.
      seed: of the draws.
    """

    def __init__(self, codec: Codec, make_batches: MakeBatches, *, repeats: int = 1, seed: int = 0):
        if not codec.units.levels:
            raise ValueError(
                "explained variance needs a tokenizer with groups or concepts to count; this one "
                "keeps its code whole"
            )
        if repeats < 1:
            raise ValueError(f"repeats={repeats} must be at least 1")
        self._codec = codec
        self._make_batches = make_batches
        self._repeats = repeats
        self._key = jax.random.key(seed)
        self._nums_kept = (0, *codec.units.levels)
        self.needs = Needs({"validation": 1})
        self.protocol: dict[str, str] = {}
        self._encode = jax.jit(codec.encode)
        self._sum = jax.jit(self._sum_losses)

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """`loss` with everything; `share` and `loss` under `first_0/`, ....

        A share is NaN where everything explains no more than nothing does.

        Raises:
          ValueError: there are no images.
        """
        total, count = np.zeros(len(self._nums_kept)), 0
        for number, batch in read(self._make_batches, "validation"):
            images, mask = batch["images"], batch["mask"]
            code = self._encode(weights, images)
            for repeat in range(self._repeats):
                key = jax.random.fold_in(jax.random.fold_in(self._key, number), repeat)
                # Sums over batches in float64: the curve is made of small differences.
                total += to_host(self._sum(weights, images, code, mask, key))
            count += int(to_host(mask).sum()) * self._repeats
        losses = total / count
        shares = explained_shares(losses)
        results = {"loss": float(losses[-1])}
        for n, share, loss in zip(self._nums_kept, shares, losses, strict=True):
            results[first(n, "share")] = float(share)
            results[first(n, "loss")] = float(loss)
        self.protocol = {name: self._describe(name) for name in results}
        return results

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """Share and loss over the number kept."""
        own = measured.own(name)
        noun = self._codec.units.noun
        plots = [
            panels.level_plot(
                name,
                measured,
                self._codec.units,
                "share",
                title=f"Explained variance by number of {noun}",
                ylabel="share",
                component_metric="explained_variance",
            ),
            panels.level_plot(
                name,
                measured,
                self._codec.units,
                "loss",
                title=f"Loss by number of {noun}",
                ylabel="loss",
            ),
        ]
        text = (
            f"<p>Share: {SHARE.format(noun=noun)}. L(0) is fair where training includes the case "
            f"of no {noun}: with condition_dropout before nesting and null_share after it, never "
            "with MGVQ. PCA: share of the pixels' variance on images that it was not fitted to.</p>"
        )
        return [
            Section(
                "Explained variance",
                text
                + panels.results_table(own, self.protocol)
                + panels.row(plots)
                + panels.level_table(own, noun),
            )
        ]

    def _describe(self, name: str) -> str:
        if name.endswith("share"):
            return SHARE.format(noun=self._codec.units.noun)
        return LOSS.format(repeats=self._repeats)

    def _sum_losses(self, weights, images, code, mask, key):
        losses = self._codec.losses(weights, images, code, jnp.asarray(self._nums_kept), key)
        return jnp.sum(jnp.where(mask, losses, 0), axis=-1)


def explained_shares(losses: np.ndarray) -> np.ndarray:
    """Losses [N] from nothing to everything -> shares [N] from 0 to 1."""
    span = losses[0] - losses[-1]
    if not span > 0:
        return np.full(len(losses), np.nan)
    return (losses[0] - losses) / span
