"""Compiles a lowered step and says what it takes, or that it does not fit."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from vqlab.planning.chips import GIB

_SIZE = r"([\d.]+)([KMGTP]?)"
_EXHAUSTED = (
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"[Uu]sed {_SIZE}i?B? of {_SIZE}i?B? hbm"),
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      arguments: state, frozen networks and batch.
      outputs: what is made beside what is updated in place.
      temporaries: everything between.
      peak: the most at any time.
    """

    arguments: float
    outputs: float
    temporaries: float
    peak: float


class OutOfMemory(NamedTuple):
    """The compiler's refusal: bytes that a device needs and has, None where it did not say."""

    needed: float | None
    available: float | None
    seconds: float = 0.0


class Compiled(NamedTuple):
    """A compiled step: its text, what it takes of a device, and the seconds that compiling took."""

    text: str
    memory: Memory
    seconds: float = 0.0


def compile_step(
    lowered: jax.stages.Lowered,
    options: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Compiled | OutOfMemory:
    """The lowered step as compiled, or that it does not fit."""
    start = time.perf_counter()
    try:
        with ticking(progress, "compiling"):
            compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return out_of_memory(str(error))._replace(seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    return Compiled(compiled.as_text(), _memory(compiled), seconds)


def to_json(result: Compiled | OutOfMemory) -> dict[str, Any]:
    """As a dictionary that JSON can hold."""
    answer = result._asdict()
    if isinstance(result, Compiled):
        answer["memory"] = result.memory._asdict()
    return answer


def from_json(answer: dict[str, Any]) -> Compiled | OutOfMemory:
    """Back from `to_json`."""
    if "text" not in answer:
        return OutOfMemory(**answer)
    return Compiled(**answer | {"memory": Memory(**answer["memory"])})


def _memory(compiled: jax.stages.Compiled) -> Memory:
    stats = compiled.memory_analysis()
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    whole = stats.argument_size_in_bytes + outputs + stats.temp_size_in_bytes
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=outputs,
        temporaries=stats.temp_size_in_bytes,
        peak=whole + stats.generated_code_size_in_bytes,
    )


def out_of_memory(message: str) -> OutOfMemory:
    """The numbers in the compiler's refusal."""
    for pattern in _EXHAUSTED:
        if match := pattern.search(message):
            needed, unit, available, other = match.groups()
            return OutOfMemory(float(needed) * _UNITS[unit], float(available) * _UNITS[other])
    return OutOfMemory(None, None)


@contextlib.contextmanager
def ticking(progress: Callable[[str], None], what: str, every: float = 30.0) -> Iterator[None]:
    """Reports every so many seconds that `what` is still under way."""
    done, start = threading.Event(), time.perf_counter()

    def tick():
        while not done.wait(every):
            progress(f"{what}: {time.perf_counter() - start:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def largest_batch(peak: float, fixed: float, batch: int, available: float, multiple: int = 1):
    """Images a device that fit when memory grows linearly, from one program's peak.

    Args:
      peak: bytes of a program with `batch` images a device.
      fixed: the part that does not grow, such as the state. Where more than this is fixed, more
        images fit than is said here.
      batch: images a device.
      available: bytes of the device.
      multiple: the answer is rounded down to a multiple of this.
    """
    each = max(peak - fixed, 1.0) / batch
    fitting = max(available - fixed, 0.0) // each
    return int(fitting // multiple * multiple)


def gib(size: float) -> str:
    """A number of bytes in GiB, for people."""
    return f"{size / GIB:.2f}"
