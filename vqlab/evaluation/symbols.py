"""How often symbols come, and what an ideal static code for them costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


class SymbolCounts:
    """Counts of integers in S columns. Exact, and no count has to be bounded.

    Args:
      num_columns: S.
      tables: [S] number of the table that a column's code is read from, where columns share some;
        () for a table of each.
    """

    def __init__(self, num_columns: int, tables: Sequence[int] = ()):
        self._numbers = tuple(tables) or tuple(range(num_columns))
        self._columns = [Counter() for _ in self._numbers]

    @property
    def num_symbols(self) -> int:
        """Counted so far in each table; in the smallest, where they are of unequal size."""
        sizes = Counter()
        for number, column in zip(self._numbers, self._columns, strict=True):
            sizes[number] += column.total()
        return min(sizes.values())

    def add(self, symbols: np.ndarray) -> None:
        """With integers [..., S]."""
        columns = symbols.reshape(-1, len(self._columns)).T
        for counter, column in zip(self._columns, columns, strict=True):
            values, counts = np.unique(column, return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def entropies(self) -> np.ndarray:
        """[S] bits per symbol by the ideal static code that its table allows.

        Over the columns of a table their mean is the empirical entropy, which no static code can
        fall below. Of n symbols it lies below that of their source, by about (K - 1) / (2 n ln 2)
        bits where K values have appeared (Miller 1955): of 27,648 indices and 1024 codewords by
        0.03 bits.
        """
        tables = {number: Counter() for number in self._numbers}
        for number, column in zip(self._numbers, self._columns, strict=True):
            tables[number].update(column)
        each = zip(self._numbers, self._columns, strict=True)
        return np.array([_bits(column, tables[number]) for number, column in each])


def _bits(column: Counter, table: Counter) -> float:
    """Per symbol of the column, with the lengths that the table's shares give."""
    counts = np.array(list(column.values()))
    shares = np.array([table[value] for value in column]) / table.total()
    return float(-np.sum(counts / counts.sum() * np.log2(shares))) + 0.0  # of one value 0, not -0
