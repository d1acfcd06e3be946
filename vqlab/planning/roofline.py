"""How long a step takes at the least: what limits it are arithmetic, memory or interconnect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vqlab.planning.chips import Chip
from vqlab.planning.collectives import Collective
from vqlab.planning.flops import Flops


class Roofline(NamedTuple):
    """Seconds that each resource of a device is busy in one step, at its peak rate."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """Of the step when all three overlap: the largest."""
        return max(self)

    @property
    def bound_by(self) -> str:
        """The name of the largest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: Flops, traffic: float, collectives: Iterable[Collective]):
    """The times of one device.

    Args:
      chip: the device.
      flops: of one device in a step.
      traffic: bytes to and from its memory.
      collectives: of the step. One goes over the network, all of it, when any of its groups
        leaves the chip's fast domain: a ring, and whoever waits for it, is as slow as its
        slowest link.
    """

    def rate(one: Collective) -> float:
        is_fast = not chip.domain or one.is_within(chip.domain)
        return chip.link if is_fast else chip.network

    return Roofline(
        compute=flops.seconds(chip),
        memory=traffic / chip.bandwidth,
        interconnect=sum(one.bytes / rate(one) for one in collectives),
    )
