"""Reads the text of a compiled XLA program: its computations, and how often each runs."""

from __future__ import annotations

import collections
import math
import re
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ?([\w\-]+)\(")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")

HBM = 0  # memory space of arrays whose layout names none


class Array(NamedTuple):
    """An array's shape in the program.

    Attributes:
      dtype: such as "bf16".
      dims: of the array.
      space: memory space: 0 is the device's memory, others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def bytes(self) -> float:
        """Without padding."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.dims) * (int(bits.group()) / 8 if bits else 1)


class Instruction(NamedTuple):
    """One line: `name = shape opcode(inside), attributes`; `arrays` are those of the shape."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    inside: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of instructions of the same computation."""
        return tuple(_NAME.findall(self.inside))

    @property
    def called(self) -> dict[str, str]:
        """Computations by what they are to the instruction: body, condition, calls, to_apply."""
        return dict(_CALLED.findall(self.attributes))

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of a conditional."""
        groups = [a or b for a, b in _BRANCHES.findall(self.attributes)]
        return tuple(name.strip().lstrip("%") for text in groups for name in text.split(","))


class Computation(NamedTuple):
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction | None:
        """What it returns."""
        return next((i for i in self.instructions.values() if i.is_root), None)


class Program(NamedTuple):
    """Computations by name, and which one runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`.

    Raises:
      ValueError: no computation is marked as the entry.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = Computation(head.group(2), {})
                computations[current.name] = current
                entry = current.name if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            instruction = _instruction(*match.groups())
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    return Program(computations, entry)


def _instruction(root: str | None, name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape = rest[:end]
    opcode = _OPCODE.match(rest, end)
    start = opcode.end() - 1
    close = _closing(rest, start)
    return Instruction(
        name,
        arrays_of(shape),
        opcode.group(1),
        rest[start + 1 : close],
        rest[close + 1 :],
        bool(root),
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape, which may be a tuple."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        space = _SPACE.search(layout)
        arrays.append(Array(dtype, sizes, int(space.group(1)) if space else HBM))
    return tuple(arrays)


def executions(program: Program, *, fusions: bool = False) -> dict[str, int]:
    """How often each computation runs; loops whose count is unknown count once.

    The inside of a fusion is left out unless `fusions`; that of a reduction always.
    """
    counts = collections.Counter()

    def visit(name: str, times: int):
        counts[name] += times
        for instruction in program.computations[name].instructions.values():
            for inner, factor in _runs(program, instruction, fusions):
                visit(inner, times * factor)

    visit(program.entry, 1)
    return dict(counts)


def _runs(program: Program, instruction: Instruction, fusions: bool):
    called = instruction.called
    if instruction.opcode == "while":
        yield called["body"], trip_count(program, instruction)
    elif instruction.opcode == "conditional":
        yield from ((name, 1) for name in instruction.branches)
    elif instruction.opcode == "call":
        yield called.get("to_apply") or called["calls"], 1
    elif instruction.opcode == "async-start" or (fusions and instruction.opcode == "fusion"):
        yield called["calls"], 1


def trip_count(program: Program, instruction: Instruction) -> int:
    """Iterations of a while loop: as annotated, or the constant that its counter is compared with.

    1 where neither is there.
    """
    if known := _TRIPS.search(instruction.attributes):
        return int(known.group(1))
    condition = program.computations[instruction.called["condition"]]
    for test in condition.instructions.values():
        if test.opcode == "compare" and "direction=LT" in test.attributes:
            for name in test.operands:
                operand = condition.instructions.get(name)
                if operand is not None and operand.opcode == "constant":
                    return int(operand.inside)
    return 1
