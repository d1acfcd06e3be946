"""What objectives of second stages have in common: one player, and codes of a frozen tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from vqlab.models.generator import TOKENIZER
from vqlab.training.step import Tree

GENERATOR = "generator"


class SecondStageObjective:
    """A network over codes of images, which its frozen tokenizer makes or records bring.

    Attributes:
      generator: the whole network.
      code: what its tokenizer's codes are called in batches and records.
    """

    generator: Any
    code: ClassVar[str]

    players: ClassVar[tuple[str, ...]] = (GENERATOR,)
    inputs: ClassVar[tuple[str, ...]] = ("images", "labels")
    needs: ClassVar[tuple[str, ...]] = (TOKENIZER,)

    @classmethod
    def create(
        cls, network: Any, build_part: Callable[[str], Any], **settings: Any
    ) -> SecondStageObjective:
        """See `Objective`."""
        del build_part
        return cls(generator=network, **settings)

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """See `Objective`."""
        names = (field.name for field in dataclasses.fields(cls))
        return tuple(name for name in names if name != "generator")

    @property
    def network(self) -> Any:
        """The generator."""
        return self.generator

    def init(self, rng: jax.Array, batch: dict) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(params, variables) of the generator; `batch` gives the shapes."""
        collections = dict(self.generator.init(rng, batch["images"]))
        return {GENERATOR: collections.pop("params")}, {GENERATOR: collections}

    def prepare(self, frozen: Mapping[str, Tree], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the code of the images, unless the batch brings it; see `Objective`."""
        batch = dict(batch)
        if self.code not in batch:
            weights = self.generator.tokenizer_weights(frozen)
            codec = self.generator.tokenizer.codec()
            batch[self.code] = codec.encode(weights, batch["images"])
        return batch

    def post_update(self, params: dict[str, Tree], update: Tree) -> dict[str, Tree]:
        """Nothing but gradient steps changes these parameters."""
        del update
        return params
