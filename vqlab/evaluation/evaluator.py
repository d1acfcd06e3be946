"""What an evaluator is: made for a codec, run on weights, shown in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from vqlab.evaluation.needs import Needs
from vqlab.evaluation.panels import Measured, Section, results_table
from vqlab.models.codec import Weights


class Evaluator:
    """Built as `EVALUATORS[name](codec, make_batches, **arguments)`; see `batches.MakeBatches`.

    Attributes:
      of: what it is made for, "tokenizer" or "generator"; it is given a `Codec` or a `Generator`.
      uses: frozen networks that it takes where their weights are given. One that names some has the
        argument `networks`, the names of those given.
      picture_file: what the workdir's picture is called where it shows `pictures` of this one.
      needs: what it needs of the images, known before anything is read.
      protocol: {metric: how it was measured, in one line}, of the last `measure`.
    """

    of: ClassVar[str] = "tokenizer"
    picture_file: ClassVar[str] = "reconstructions.png"
    uses: ClassVar[tuple[str, ...]] = ()
    needs: Needs = Needs({"validation": 1})
    protocol: dict[str, str]

    @classmethod
    def in_place_of_images(cls, subject: Any) -> tuple[tuple[str, str], ...]:
        """(array of records, frozen network that must have made it): those that it takes in the
        place of images, which are not read where one of them is stored; most take none."""
        del subject
        return ()

    def measure(self, weights: Weights, frozen: Mapping[str, Any]) -> dict[str, float]:
        """{metric: value} of a codec with these weights; names as `evaluation.names` makes them.

        Args:
          weights: of the codec.
          frozen: variables of the networks in `uses`, by name.

        Raises:
          Unmeasurable: the images that can be read do not allow it, on all processes alike.
          ValueError: what else is wrong with the data.
        """
        raise NotImplementedError

    def summary(self, results: Mapping[str, float]) -> str:
        """What a run says of it at its end, in a line; here nothing. `results` are its own."""
        del results
        return ""

    def pictures(self, results: Mapping[str, float]) -> tuple | None:
        """(originals [n, H, W, 3], ways [L, n, H, W, 3], L + 1 headings) of the last `measure`, for
        a picture of the run; None without any. `results` are its own."""
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """Of the last `measure`, by name: what a figure of several runs takes; here nothing."""
        return {}

    def sections(self, name: str, measured: Measured) -> list[Section]:
        """What the report shows of it, where `name` is its name in `measured`; here a table."""
        own = measured.own(name)
        return [Section(name.replace("_", " "), results_table(own, self.protocol))]
