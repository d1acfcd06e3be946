"""Which devices a collective joins, from its attributes in the compiled program."""

from __future__ import annotations

import math
import re

import numpy as np

# Three notations of groups, and pairs (source, target) of a permutation in the first of them:
#   {{0,1},{2,3}}            as a list
#   [2,2]<=[2,2]T(1,0)       0, 1, ... as an array, its axes exchanged, cut into rows
#   mesh['a'=2,'b'=2] {'b'}  along axes of a mesh, here of devices in order; others are written
#                            behind the sizes: , device_ids=([2,2]T(1,0)) or a list
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{\d[\d,{}]*\})\}")
_ARRAY = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_IOTA = re.compile(rf"replica_groups=\[\d+,(\d+)\]<={_ARRAY}")
_MESH = re.compile(
    rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:{_ARRAY}|([\d,]+))\))? \{{([^}}]*)\}}"
)
_AXIS_SIZE = re.compile(r"'?(\w+)'?=(\d+)")
_AXIS = re.compile(r"'?\b([^\W\d]\w*)'?(?::\((\d+)\)(\d+))?")


def device_groups(attributes: str, num_devices: int) -> tuple[tuple[int, ...], ...]:
    """Numbers of the devices of each group, one group of all when none are listed.

    Of a permutation its pairs. A device's number is its place in the flattened mesh.
    """
    if match := _LISTED.search(attributes):
        return tuple(_numbers(text) for text in re.findall(r"\{([\d,]*)\}", match.group(1)))
    if match := _IOTA.search(attributes):
        ids = _iota(match.group(2), match.group(3)).reshape(-1, int(match.group(1)))
        return tuple(tuple(row) for row in ids.tolist())
    if match := _MESH.search(attributes):
        return _along(*match.groups())
    return (tuple(range(num_devices)),)


def _along(axes: str, shape: str, order: str, listed: str, names: str):
    """The groups along the named axes of a mesh; device ids as an array, a list, or in order.

    Of an axis 'a' of 8, 'a':(2)4 is a part: the axis of 4 when it is cut into 2 x 4 x 1.
    """
    sizes = {name: int(size) for name, size in _AXIS_SIZE.findall(axes)}
    ids = np.arange(math.prod(sizes.values()))
    if listed:
        ids = np.array(_numbers(listed))
    elif shape:
        ids = _iota(shape, order).ravel()
    # Devices are of one group when they differ in the named axes only: with these at 0, in none.
    places = dict(zip(sizes, np.indices(tuple(sizes.values())), strict=True))
    for name, before, size in _AXIS.findall(names):
        size = int(size or sizes[name])
        after = sizes[name] // (int(before or 1) * size)
        places[name] -= places[name] // after % size * after
    first = np.ravel_multi_index(tuple(places.values()), tuple(sizes.values())).ravel()
    return tuple(tuple(ids[first == one].tolist()) for one in np.unique(first))


def _iota(shape: str, order: str | None) -> np.ndarray:
    """0, 1, ... in an array of that shape, its axes then in that order."""
    sizes = _numbers(shape)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
