"""What the devices send each other in one step, from the compiled program."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from vqlab.planning import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_CHAIN = re.compile(r'\bchannel_id=\d+|chain_id="\d+"')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")


class Collective(NamedTuple):
    """All executions of one instruction in a step.

    Attributes:
      kind: one of `KINDS`.
      group: number of devices that take part.
      count: executions.
      bytes: that each device sends in all of them, by the ring algorithm.
    """

    kind: str
    group: int
    count: int
    bytes: float


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
            group = group_size(instruction.attributes, num_devices)
            if kind == "collective-permute":
                group = num_devices
            chain = tuple(_CHAIN.findall(instruction.attributes))
            key = (kind, chain) if len(chain) == 2 else (name, instruction.name)
            if group > 1 and times > (found[key].count if key in found else 0):
                sent = sent_bytes(kind, _result_bytes(instruction), group)
                found[key] = Collective(kind, group, times, times * sent)
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


def group_size(attributes: str, num_devices: int) -> int:
    """Devices of a replica group; all of them when none are listed."""
    if match := _MESH.search(attributes):
        sizes = dict(re.findall(r"'?([\w]+)'?=(\d+)", match.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"'?([\w]+)'?", match.group(2)))
    if match := _IOTA.search(attributes):
        return int(match.group(2))
    if match := _LISTED.search(attributes):
        return match.group(1).count(",") + 1
    return num_devices


def _result_bytes(instruction: hlo.Instruction) -> float:
    """Of an asynchronous start only its results, the last half of (operands, results)."""
    arrays = [array for array in instruction.arrays if array.dims]
    scalars = sum(array.bytes for array in instruction.arrays if not array.dims)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        return sum(array.bytes for array in arrays[len(arrays) // 2 :])
    return sum(array.bytes for array in arrays) + scalars
