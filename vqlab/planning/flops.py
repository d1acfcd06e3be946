"""Floating-point operations of a traced function: those of its products and convolutions.

Counted from the jaxpr, so the number is the same on every device, and a scan counts all its
iterations (the compilers' own analyses count a loop's body once). Elementwise operations are left
out, as is usual; recomputation in the backward pass is in the jaxpr and counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.interpreters import partial_eval

from vqlab.planning.chips import Chip

_HIGH = (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)


class Flops(NamedTuple):
    """FLOPs by how an accelerator computes them; see `Chip` for the rates.

    Attributes:
      bf16: products of numbers of at most 16 bits.
      default: of float32 numbers in default precision.
      float32: of float32 numbers in precision HIGH or HIGHEST.
    """

    bf16: float = 0
    default: float = 0
    float32: float = 0

    @property
    def total(self) -> float:
        """All of them."""
        return self.bf16 + self.default + self.float32

    def seconds(self, chip: Chip) -> float:
        """How long one chip takes at its peak."""
        return self.bf16 / chip.bf16 + self.default / chip.default + self.float32 / chip.float32

    def plus(self, other: Flops, times: float = 1) -> Flops:
        """This and `times` the other."""
        return Flops(*(a + times * b for a, b in zip(self, other, strict=True)))


def traced_flops(traced: jax.stages.Traced) -> Flops:
    """FLOPs of one call over all devices, of `jax.jit(f).trace(...)`.

    What no output needs is left out first, as a compiler does.
    """
    total = Flops()
    for equation, times in products(_used(traced)):
        total = total.plus(_by_precision(equation), times)
    return total


def traced_traffic(traced: jax.stages.Traced) -> float:
    """Bytes that the products read and write: what a program moves whose every other operation
    runs together with one of them."""
    return sum(
        times * sum(v.aval.size * v.aval.dtype.itemsize for v in (*one.invars, *one.outvars))
        for one, times in products(_used(traced))
    )


def _used(traced: jax.stages.Traced):
    jaxpr = traced.jaxpr.jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def products(jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """(equation, how often it runs) of all products and convolutions.

    Of a conditional the most expensive branch; of a while loop one turn.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _COUNTS:
            yield equation, times
        elif name == "cond":
            branches = (branch.jaxpr for branch in equation.params["branches"])
            yield from products(max(branches, key=_total), times)
        else:
            turns = equation.params["length"] if name == "scan" else 1
            for inner in _inner_jaxprs(equation.params):
                yield from products(inner, times * turns)


def _total(jaxpr) -> float:
    return sum(times * _COUNTS[one.primitive.name](one) for one, times in products(jaxpr))


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        inner = getattr(value, "jaxpr", value)  # a ClosedJaxpr has a Jaxpr
        if hasattr(inner, "eqns"):
            yield inner


def _by_precision(equation) -> Flops:
    count = _COUNTS[equation.primitive.name](equation)
    bits = max(v.aval.dtype.itemsize for v in equation.invars) * 8
    if bits <= 16:
        return Flops(bf16=count)
    precision = equation.params["precision"]
    pair = precision if isinstance(precision, tuple) else (precision,)
    if any(p in _HIGH for p in pair):
        return Flops(float32=count)
    return Flops(default=count)


def _dot(equation) -> float:
    """A multiplication and an addition for each output and contracted element."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracted)


def _convolution(equation) -> float:
    """The same for each output and kernel element; zeros that dilation puts in are free."""
    kernel = equation.invars[1].aval
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = kernel.size // max(outputs, 1)
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * taps / dilation


_COUNTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
