"""Comparing arrays and keeping the rows of a parity report."""

from dataclasses import dataclass, field

import numpy as np

OUTPUT_LIMIT = 1e-4  # relative, float32 outputs
GRADIENT_LIMIT = 1e-3


class Unsupported(Exception):
    """The file is of a kind, or has a setting, that this command cannot check."""


@dataclass(frozen=True)
class Row:
    """One compared array: its error (largest relative, or number of mismatches) and the limit."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def is_met(self) -> bool:
        return bool(self.error <= self.limit)  # NaN is not


@dataclass
class Report:
    """Rows for the arrays of one file; `finish` adds one for every array that nothing looked at."""

    arrays: dict[str, np.ndarray]
    rows: list[Row] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, name: str) -> np.ndarray:
        """The stored array, marked as looked at."""
        self.seen.add(name)
        return self.arrays[name]

    def add(self, name: str, error: float, limit: float, note: str = "") -> None:
        self.rows.append(Row(name, float(error), limit, note))

    def close(self, name: str, ours, limit: float = OUTPUT_LIMIT, note: str = "") -> None:
        """Compares `ours` with the stored array: max |a - b| / max |b|."""
        self.add(name, relative_error(ours, self.take(name)), limit, note)

    def equal(self, name: str, ours) -> None:
        """Compares exactly; the error is the number of elements that differ."""
        theirs = self.take(name)
        ours = np.asarray(ours)
        mismatches = np.sum(ours != theirs) if ours.shape == theirs.shape else np.inf
        self.add(name, mismatches, 0, "mismatches")

    def finish(self) -> None:
        outputs = [name for name in self.arrays if name.startswith("out/")]
        for name in outputs:
            if name not in self.seen:
                self.add(name, np.inf, 0, "not covered")
        if not outputs:
            raise Unsupported("the file holds no out/ arrays")

    @property
    def is_met(self) -> bool:
        return all(row.is_met for row in self.rows)


def relative_error(ours, theirs) -> float:
    """max |a - b| / max |b| in float64; absolute when b is all zero, inf when the shapes differ."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    scale = np.max(np.abs(theirs), initial=0.0)
    return float(np.max(np.abs(ours - theirs), initial=0.0) / (scale if scale > 0 else 1.0))
