"""Bytes that one step moves to and from a device's memory, from the compiled program.

Each instruction, or fusion of several, reads its operands and writes its results; what stays in
on-chip memory is free, and a slice moves only its own size. Loops count all their iterations.
"""

from __future__ import annotations

from vqlab.planning import hlo

# These move nothing, or what they run is counted by itself.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "partition-id replica-id opt-barrier domain async-start async-update".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "get-tuple-element")


def memory_traffic(program: hlo.Program) -> float:
    """Bytes read and written by one device in a step."""
    return sum(
        times * sum(_moved(program, program.computations[name], one) for one in lines)
        for name, times in hlo.executions(program).items()
        for lines in [program.computations[name].instructions.values()]
    )


def _moved(program: hlo.Program, inside: hlo.Computation, one: hlo.Instruction) -> float:
    if one.opcode in _FREE or one.opcode.endswith("-done") or "AllocateBuffer" in one.attributes:
        return 0.0
    operands = [inside.instructions[name] for name in one.operands if name in inside.instructions]
    if one.opcode == "fusion":
        return _fusion(program, program.computations[one.called["calls"]], operands, one)
    if one.opcode in _SLICES:
        return _hbm(one) + _as_in(operands[0], _size(one))
    if one.opcode == "dynamic-update-slice":
        return _hbm(operands[1]) + _as_in(operands[0], _size(operands[1]))
    if one.opcode == "slice-start":  # ((operand), result, flag)
        result = one.arrays[1]
        return _in_hbm(result) + _as_in(operands[0], result.bytes)
    if one.opcode == "copy-start":  # (result, operand, flag)
        return sum(_in_hbm(array) for array in one.arrays[:2])
    return _hbm(one) + sum(_hbm(operand) for operand in operands)


def _fusion(program, body: hlo.Computation, operands, one: hlo.Instruction) -> float:
    lines = body.instructions.values()
    parameters = {int(line.inside): line.name for line in lines if line.opcode == "parameter"}
    read = sum(
        _as_in(operand, _read(program, body, parameters[number], _size(operand)))
        for number, operand in enumerate(operands)
    )
    results = [_behind(body, name) for name in _results(body)]
    written = [
        _size(body.instructions[line.operands[1]])
        if line is not None and line.opcode == "dynamic-update-slice"
        else None
        for line in results
    ]
    if len(written) != len(one.arrays):
        return read + _hbm(one)
    return read + sum(
        (array.bytes if size is None else size) if array.space == hlo.HBM else 0.0
        for array, size in zip(one.arrays, written, strict=True)
    )


def _results(body: hlo.Computation) -> tuple[str, ...]:
    root = body.root
    return root.operands if root.opcode == "tuple" else (root.name,)


def _behind(body: hlo.Computation, name: str) -> hlo.Instruction | None:
    """The instruction that a view shows."""
    line = body.instructions.get(name)
    while line is not None and line.opcode in ("bitcast", "reshape") and line.operands:
        line = body.instructions.get(line.operands[0])
    return line


def _read(program: hlo.Program, body: hlo.Computation, name: str, size: float) -> float:
    """Bytes that a fusion reads of the `size` bytes of its value `name`."""
    read = 0.0
    for line in body.instructions.values():
        if name not in line.operands:
            continue
        if line.opcode in _SLICES and line.operands[0] == name:
            read += _size(line)
        elif line.opcode == "dynamic-update-slice" and line.operands[0] == name:
            continue  # in place
        elif line.opcode in _VIEWS:
            read += _read(program, body, line.name, size)
        elif line.opcode == "fusion":
            inner = program.computations[line.called["calls"]]
            number = line.operands.index(name)
            parameter = next(
                x.name
                for x in inner.instructions.values()
                if x.opcode == "parameter" and int(x.inside) == number
            )
            read += _read(program, inner, parameter, size)
        else:
            return size
    return min(read, size)


def _size(line: hlo.Instruction) -> float:
    return sum(array.bytes for array in line.arrays)


def _in_hbm(array: hlo.Array) -> float:
    return array.bytes if array.space == hlo.HBM else 0.0


def _hbm(line: hlo.Instruction) -> float:
    return sum(_in_hbm(array) for array in line.arrays)


def _as_in(operand: hlo.Instruction, size: float) -> float:
    """`size` bytes of an operand, which are free when it is on the chip."""
    return size if any(array.space == hlo.HBM for array in operand.arrays) else 0.0
