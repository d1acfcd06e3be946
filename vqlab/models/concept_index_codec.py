"""The codec of a Semanticist whose concepts are codewords."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from vqlab.models.codec import Units
from vqlab.models.codec_parts import check_index_range, powers
from vqlab.models.codings import Coding, Codings, Sent
from vqlab.models.concept_codec import DecodedConcepts
from vqlab.ops.mesh import reshape
from vqlab.ops.pixels import as_floats


@dataclasses.dataclass(frozen=True)
class ConceptIndexCodec(DecodedConcepts):
    """Semanticist's concepts as indices [B, S, G]: the first k, learned nulls for the others."""

    name: ClassVar[str] = "indices"

    @property
    def codebook_size(self) -> int:
        """K, codewords per group."""
        return self.module.quantizer.codebook_size

    @property
    def num_groups(self) -> int:
        """G, indices of a concept."""
        return self.module.quantizer.num_groups

    @property
    def units(self) -> Units:
        """Concepts: 1, 2, 4, ..., S."""
        total = self.module.num_concepts
        return Units("concepts", total, powers(total), "nulls")

    @property
    def sizes(self) -> dict[str, int]:
        """`num_groups` and `codebook_size` beside those of the concepts."""
        return super().sizes | {
            "num_groups": self.num_groups,
            "codebook_size": self.codebook_size,
        }

    def check_code(self, code):
        """See `Codec`."""
        total, groups = self.module.num_concepts, self.num_groups
        if not np.issubdtype(code.dtype, np.integer):
            raise ValueError(f"indices must be integers, not {code.dtype}")
        if code.ndim != 3 or code.shape[1:] != (total, groups):
            raise ValueError(f"indices {code.shape} must be [B, {total}, {groups}]")
        check_index_range(code, self.codebook_size)

    def encode(self, weights, images):
        """[B, S, G] int32; see `Codec`."""

        def quantize(module, images):
            return module.quantize(module.encode(images)).indices

        return self.module.apply(weights.variables, as_floats(images), method=quantize)

    def lookup(self, weights, code):
        """[B, S, D]: what the decoder reads."""
        return self.module.apply(weights.variables, code, method="look_up")

    def tokens(self, weights, images):
        """[B, S, D]: what the quantizer takes."""
        return self._encode(weights, images)

    def codings(self, steps=()):
        """The indices, at fixed length or by a code for each group, the same for all concepts.

        See `Codec`.
        """
        del steps
        total, groups = self.module.num_concepts, self.num_groups
        way = Coding(
            "indices",
            self._send,
            symbol_bits=(math.log2(self.codebook_size),) * (total * groups),
            tables=tuple(range(groups)) * total,
        )
        return Codings(self.encode, (way,))

    def _send(self, weights, indices, key, step):
        del weights, key, step
        return Sent(indices, reshape(indices, (len(indices), -1)), None)

    def bits(self, height, width):
        """Concepts x groups x log2(codewords per group), whatever the image."""
        return self.module.num_concepts * self._bits_of_concept

    @property
    def _bits_of_concept(self) -> float:
        return self.num_groups * math.log2(self.codebook_size)

    def card(self):
        """See `Codec`."""
        total, groups, side = self.module.num_concepts, self.num_groups, self.module.image_size
        facts = {
            "image size": f"{side} pixels",
            "concepts": f"{total}",
            "bottleneck": self.module.quantizer.title,
            "groups x codewords per group": f"{groups} x {self.codebook_size}",
            "bits per concept": f"{self._bits_of_concept:g}",
            "bits per pixel": f"{self.bits(side, side) / side**2:.4f}",
        }
        tags = ("vector-quantization", "diffusion")
        return self._card(facts, "indices", f"[B, {total}, {groups}]", tags)
