"""What a second stage over indices is trained for: the cross entropy of every index.

LlamaGen's loss (train_c2i.py, gpt.py forward), over the groups of MGVQ's head too. MGVQ's own
training code of this stage is not public.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from vqlab.models.generator import TOKENIZER
from vqlab.models.index_generator import IndexGenerator
from vqlab.ops import rng as rng_streams
from vqlab.training.objectives.second_stage import GENERATOR, SecondStageObjective
from vqlab.training.step import Aux, Stored


@dataclasses.dataclass(frozen=True)
class IndexObjective(SecondStageObjective):
    """Mean of -log p over images, positions and groups, in nats.

    Attributes:
      generator: an `IndexGenerator`.
    """

    generator: IndexGenerator

    code: ClassVar[str] = "indices"
    stored: ClassVar[Mapping[str, Stored]] = {
        "indices": Stored(TOKENIZER, dtype="int32", replaces="images")
    }

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        """({"generator": loss}, Aux).

        batch["images"] is [B, H, W, 3] uint8 or in [-1, 1]; where the batch has "indices"
        [B, ..., G], the tokenizer is not run. batch["labels"] is [B].
        """
        del step
        batch = self.prepare(frozen, batch)
        nll = self.generator.nll(
            {"params": params[GENERATOR], **variables[GENERATOR]},
            frozen,
            batch["indices"],
            batch["labels"],
            train=True,
            rngs=rng_streams.streams(rng, "dropout", "label_dropout"),
        )
        loss, of_groups = jnp.mean(nll), jnp.mean(nll, (0, 1))
        metrics = {f"nll_g{group}": of_groups[group] for group in range(len(of_groups))}
        return {GENERATOR: loss}, Aux(variables, metrics, {})
