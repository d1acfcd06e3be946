"""What a run tolerates: numbers that are not finite, and codebooks that die."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Guards:
    """Limits of a run; what happens beyond them is logged and shown in the report.

    Attributes:
      max_skipped: steps in a row that are skipped because a loss, a gradient or another metric is
        not finite. One more, and the run goes back to its newest checkpoint, with another order of
        the data from there on.
      max_rollbacks: how often it goes back before it stops.
      max_dead_share: of a group's codewords; more dead ones are an alarm. 1 for none.
      min_perplexity: of a group's choices in a batch, in codewords; less is an alarm. 0 for none.
    """

    max_skipped: int = 0
    max_rollbacks: int = 0
    max_dead_share: float = 1.0
    min_perplexity: float = 0.0

    def __post_init__(self):
        for name in ("max_skipped", "max_rollbacks", "min_perplexity"):
            if getattr(self, name) < 0:
                raise ValueError(f"guards.{name}={getattr(self, name)} must be at least 0")
        if not 0 <= self.max_dead_share <= 1:
            raise ValueError(
                f"guards.max_dead_share={self.max_dead_share} is no share; choose 0..1"
            )

    def alarms(self, values: Mapping[str, float]) -> dict[str, str]:
        """{metric: what is wrong with it} of a log's values."""
        found = {}
        for name, value in values.items():
            if re.fullmatch(r"dead_g\d+", name) and value > self.max_dead_share:
                found[name] = (
                    f"{name[5:]}: {100 * value:.0f} % of the codewords are dead "
                    f"(guards.max_dead_share={self.max_dead_share:g})"
                )
            if re.fullmatch(r"perplexity_g\d+", name) and value < self.min_perplexity:
                found[name] = (
                    f"{name[11:]}: perplexity {value:.1f} "
                    f"(guards.min_perplexity={self.min_perplexity:g})"
                )
        return found
