"""What TiTok's first stage trains: to predict the codes of a frozen tokenizer from few tokens.

TiTok, section 3.4 ("proxy codes"); 1d-tokenizer's losses.py, ReconstructionLoss_Stage1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from vqlab.models.pixel_decoding import NAME
from vqlab.models.titok import TiTok
from vqlab.nn.quantized import Quantized
from vqlab.ops import losses
from vqlab.ops import rng as rng_streams
from vqlab.ops.pixels import as_floats
from vqlab.training.objectives.quantizer_loss import quantizer_loss
from vqlab.training.objectives.reconstruction import TOKENIZER
from vqlab.training.step import Aux, Stored, Tree

CODES = "pixel_codes"


class Trained(NamedTuple):
    """A `Prediction` of a training pass, and the network's collections after it."""

    logits: jax.Array
    quantized: Quantized
    variables: dict[str, Tree]


@dataclasses.dataclass(frozen=True)
class CodeObjective:
    """Cross entropy of the pixel tokenizer's codes, and the bottleneck's losses.

    Attributes:
      network: a `TiTok` with a frozen pixel tokenizer.
      quantizer_weight: of the bottleneck's losses, means over its groups.
    """

    network: TiTok
    quantizer_weight: float = 1.0

    players: ClassVar[tuple[str, ...]] = (TOKENIZER,)
    inputs: ClassVar[tuple[str, ...]] = ("images",)
    needs: ClassVar[tuple[str, ...]] = (NAME,)
    stored: ClassVar[Mapping[str, Stored]] = {CODES: Stored(NAME, dtype="int32")}

    @classmethod
    def create(
        cls, network: nn.Module, build_part: Callable[[str], Any], **settings: Any
    ) -> CodeObjective:
        """See `Objective`.

        Raises:
          ValueError: a network that predicts no codes.
        """
        del build_part
        if NAME not in network.frozen_parts():
            raise ValueError(
                "code_prediction is for a TiTok with a frozen pixel tokenizer, whose codes it "
                "learns: take the config's option `stage1`, or another objective"
            )
        return cls(network=network, **settings)

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """See `Objective`."""
        return ("quantizer_weight",)

    def prepare(self, frozen: Mapping[str, Tree], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds "pixel_codes" [B, h, w]; see `Objective`."""
        batch = {**batch, "images": as_floats(batch["images"])}
        if CODES not in batch:
            batch[CODES] = self.network.pixel_tokenizer.codes(frozen, batch["images"])
        return batch

    def init(self, rng: jax.Array, batch: dict) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(params, variables) of the network; `batch` gives the shapes."""
        collections = dict(self.network.init(rng, batch["images"]))
        return {TOKENIZER: collections.pop("params")}, {TOKENIZER: collections}

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        """({"tokenizer": loss}, Aux); where the batch has "pixel_codes" no frozen network runs."""
        del step
        batch = self.prepare(frozen, batch)
        weights = {"params": params[TOKENIZER], **variables[TOKENIZER]}
        rngs = rng_streams.streams(rng, "mask", "reseed")
        loss, terms, made = self.losses(weights, batch["images"], batch[CODES], rngs)
        return {TOKENIZER: loss}, Aux({TOKENIZER: made.variables}, terms, made.quantized.update)

    def losses(self, weights, images, codes, rngs=None):
        """(loss, {term: mean}, `Trained`) of images [B,H,W,3] in [-1, 1] and codes [B,h,w]."""
        others = {name: tree for name, tree in weights.items() if name != "params"}
        prediction, updated = self.network.apply(
            weights, images, train=True, method="predict", mutable=list(others), rngs=rngs
        )
        made = Trained(*prediction, dict(updated))
        nll = losses.index_nll(made.logits, codes)
        is_right = jnp.argmax(made.logits, axis=-1) == codes
        terms = {"cross_entropy": jnp.mean(nll), "accuracy": jnp.mean(is_right.astype(jnp.float32))}
        own, quantizer = quantizer_loss(made.quantized)
        loss = terms["cross_entropy"] + self.quantizer_weight * own
        return loss, terms | quantizer, made

    def post_update(self, params: dict[str, Tree], update: Tree) -> dict[str, Tree]:
        """What the bottleneck does beside gradient steps, such as reseeding dead codewords."""
        if not update:
            return params
        return params | {TOKENIZER: self.network.post_update(params[TOKENIZER], update)}
