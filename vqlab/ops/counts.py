"""The check of numbers that say how many: groups, concepts, steps."""

import numbers
from typing import Any


def check_count(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """`value`, which has to be a whole number in lowest..highest; ValueError names it and them."""
    bounds = f"choose {lowest}..{highest}" if highest is not None else f"at least {lowest}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name}={value!r} is no whole number: {bounds}")
    if value < lowest or (highest is not None and value > highest):
        raise ValueError(f"{name}={value} is out of range: {bounds}")
    return int(value)


def check_kept(name: str, value: int | None, total: int) -> int:
    """How many of `total` to keep: all for None, otherwise `value`, which lies in 0..total."""
    return total if value is None else check_count(name, value, 0, total)
