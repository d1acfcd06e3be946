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
      collectives: of the step; a group beyond the chip's fast domain goes over the network.
    """

    def rate(group: int) -> float:
        return chip.network if chip.domain and group > chip.domain else chip.link

    return Roofline(
        compute=flops.seconds(chip),
        memory=traffic / chip.bandwidth,
        interconnect=sum(one.bytes / rate(one.group) for one in collectives),
    )
