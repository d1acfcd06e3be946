"""Places for labels beside points, where they cover neither each other nor a mark."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """In pixels, which count downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: Box) -> float:
        """Pixels that both have."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


CHARACTER = 6.6  # pixels of one, on average
LINE = 14.0


class LabelPlaces:
    """Gives each label the place around its point that covers least of what is there.

    Args:
      bounds: labels stay inside.
    """

    def __init__(self, bounds: Box):
        self._bounds = bounds
        self._taken: list[Box] = []

    def take(self, x: float, y: float, size: float) -> None:
        """A mark lies there."""
        self._taken.append(Box(x - size, y - size, x + size, y + size))

    def place(self, words: str, x: float, y: float) -> tuple[float, float]:
        """Where the words start, at their base line."""
        width = CHARACTER * len(words)
        candidates = [
            Box(left, top, left + width, top + LINE)
            for reach in (9, 22, 38)
            for left, top in (
                (x + reach, y - LINE / 2),
                (x + reach / 2, y - LINE - reach / 1.6),
                (x + reach / 2, y + reach / 1.6),
                (x - width / 2, y - LINE - reach),
                (x - width / 2, y + reach),
                (x - width - reach, y - LINE / 2),
            )
        ]
        best = min(candidates, key=self._cost)  # of equal ones the first
        self._taken.append(best)
        return best.left, best.bottom - 3.5

    def _cost(self, box: Box) -> float:
        inside = box.covers(self._bounds)
        area = (box.right - box.left) * (box.bottom - box.top)
        return 10 * (area - inside) + sum(box.covers(other) for other in self._taken)
