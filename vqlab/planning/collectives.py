"""What the devices send each other in one step, from the compiled program."""

from __future__ import annotations

import re
from typing import NamedTuple

from vqlab.planning import hlo
from vqlab.planning.groups import device_groups

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_CHAIN = re.compile(r'\bchannel_id=\d+|chain_id="\d+"')


class Collective(NamedTuple):
    """All executions of one instruction in a step.

    Attributes:
      kind: one of `KINDS`.
      group: number of devices that take part.
      count: executions.
      bytes: that each device sends in all of them, by the ring algorithm.
      groups: the devices that send to each other, by their numbers.
    """

    kind: str
    group: int
    count: int
    bytes: float
    groups: tuple[tuple[int, ...], ...]

    def is_within(self, block: int) -> bool:
        """Whether no group leaves its block of so many devices, counted from device 0 on."""
        return all(len({device // block for device in group}) <= 1 for group in self.groups)


def collectives(program: hlo.Program, num_devices: int) -> list[Collective]:
    """Those of one step; a group of one device, which sends nothing, is left out.

    libtpu writes an asynchronous collective several times, in the fusions that begin, carry and
    end it; they have one chain, and count once.
    """
    found = {}
    for name, times in hlo.executions(program, fusions=True).items():
        for instruction in program.computations[name].instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            groups = device_groups(instruction.attributes, num_devices)
            group = num_devices if kind == "collective-permute" else len(groups[0])
            chain = tuple(_CHAIN.findall(instruction.attributes))
            key = (kind, chain) if len(chain) == 2 else (name, instruction.name)
            if group > 1 and times > (found[key].count if key in found else 0):
                sent = sent_bytes(kind, _result_bytes(instruction), group)
                found[key] = Collective(kind, group, times, times * sent, groups)
    return list(found.values())


def by_kind(found: list[Collective]) -> dict[str, dict[str, float]]:
    """{kind: {"count", "bytes"}}, of kinds that occur."""
    total = {}
    for one in found:
        entry = total.setdefault(one.kind, {"count": 0, "bytes": 0.0})
        entry["count"] += one.count
        entry["bytes"] += one.bytes
    return total


def sent_bytes(kind: str, result: float, group: int) -> float:
    """What a device sends in a ring of `group`, when its result has `result` bytes.

    A reduce-scatter sends n - 1 pieces of the size of its result, an all-gather likewise pieces
    of a n-th, and an all-reduce is one after the other.
    """
    if kind == "all-reduce":
        return 2 * result * (group - 1) / group
    if kind == "reduce-scatter":
        return result * (group - 1)
    if kind == "collective-permute":
        return result
    return result * (group - 1) / group


def _result_bytes(instruction: hlo.Instruction) -> float:
    """Of an asynchronous start only its results, the last half of (operands, results)."""
    arrays = [array for array in instruction.arrays if array.dims]
    scalars = sum(array.bytes for array in instruction.arrays if not array.dims)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        return sum(array.bytes for array in arrays[len(arrays) // 2 :])
    return sum(array.bytes for array in arrays) + scalars
