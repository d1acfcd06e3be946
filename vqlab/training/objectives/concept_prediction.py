"""What a second stage over concepts is trained for: the loss of its diffusion head.

Semanticist, section 4.4 and appendix C.2; gpt.py and diffloss.py of the released stage2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from vqlab.models.concept_generator import ConceptGenerator
from vqlab.models.generator import TOKENIZER
from vqlab.ops import rng as rng_streams
from vqlab.ops.counts import check_count
from vqlab.training.objectives.second_stage import GENERATOR, SecondStageObjective
from vqlab.training.step import Aux, Stored


@dataclasses.dataclass(frozen=True)
class ConceptPredictionObjective(SecondStageObjective):
    """Mean of the process's loss over draws, images and the concepts that are modelled.

    Attributes:
      generator: a `ConceptGenerator`.
      draws_per_token: times and noises for each concept and pass of the transformer; 4 as
        published (diffusion_batch_mul).
    """

    generator: ConceptGenerator
    draws_per_token: int = 4

    code: ClassVar[str] = "concepts"
    stored: ClassVar[Mapping[str, Stored]] = {"concepts": Stored(TOKENIZER, replaces="images")}

    def __post_init__(self):
        check_count("draws_per_token", self.draws_per_token, 1)

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        """({"generator": loss}, Aux).

        batch["images"] is [B, H, W, 3] uint8 or in [-1, 1]; where the batch has "concepts"
        [B, total, D], the tokenizer is not run. batch["labels"] is [B].
        """
        del step
        batch = self.prepare(frozen, batch)
        keys = rng_streams.streams(rng, "draws", "dropout", "label_dropout")
        concepts = batch["concepts"]
        noise, t = self.generator.draw(keys.pop("draws"), self.draws_per_token, len(concepts))
        terms = self.generator.losses(
            {"params": params[GENERATOR], **variables[GENERATOR]},
            concepts,
            batch["labels"],
            noise,
            t,
            train=True,
            rngs=keys,
        )
        metrics = {name: jnp.mean(values) for name, values in terms.items()}
        return {GENERATOR: metrics.pop("loss")}, Aux(variables, metrics, {})
