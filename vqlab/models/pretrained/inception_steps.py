"""What Inception is put together from: convolutions, pools, and branches side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vqlab.nn.layers import FLOAT32

# (name of a convolution, its output) -> None; called for each, in order.
Observe = Callable[[str, jax.Array], None]


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution, with its folded BatchNorm, and ReLU. Those with a stride pad nothing."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    def __call__(self, params: dict, x: Array, observe: Observe, block: str = "") -> Array:
        name = block + self.name
        y = jax.lax.conv_general_dilated(
            x,
            params[name]["kernel"],
            window_strides=(self.stride, self.stride),
            padding="VALID" if self.stride > 1 else self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=FLOAT32,
        )
        y = jax.nn.relu(y + params[name]["bias"])
        observe(name, y)
        return y

    def kernels(self, inputs: int, block: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of the kernel behind `inputs` channels."""
        yield block + self.name, (*self.kernel, inputs, self.outputs)

    def channels(self, inputs: int) -> int:
        """Of the output."""
        return self.outputs


@dataclasses.dataclass(frozen=True)
class Pool:
    """A 3x3 pool, of maxima or of means over what lies inside the image."""

    kind: str
    stride: int = 1

    def __call__(self, params: dict, x: Array, observe: Observe, block: str = "") -> Array:
        window, strides = (1, 3, 3, 1), (1, self.stride, self.stride, 1)
        padding = "VALID" if self.stride > 1 else "SAME"
        if self.kind == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
        sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding)
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        return sums / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, strides, padding)

    def kernels(self, inputs: int, block: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
        """None."""
        return iter(())

    def channels(self, inputs: int) -> int:
        """Of the output."""
        return inputs


@dataclasses.dataclass(frozen=True)
class Fork:
    """Branches side by side on the same input, each a row of steps; their channels are joined."""

    branches: tuple[tuple[Any, ...], ...]
    name: str = ""

    def __call__(self, params: dict, x: Array, observe: Observe, block: str = "") -> Array:
        made = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = step(params, y, observe, block + self.name)
            made.append(y)
        return jnp.concatenate(made, axis=-1)

    def kernels(self, inputs: int, block: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of all kernels inside."""
        for branch in self.branches:
            yield from kernels_of(branch, inputs, block + self.name)

    def channels(self, inputs: int) -> int:
        """Of the output."""
        return sum(channels_of(branch, inputs) for branch in self.branches)


def kernels_of(steps: tuple, inputs: int, block: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the kernels of steps one after another, behind `inputs` channels."""
    for step in steps:
        yield from step.kernels(inputs, block)
        inputs = step.channels(inputs)


def channels_of(steps: tuple, inputs: int) -> int:
    """Output channels of steps one after another."""
    for step in steps:
        inputs = step.channels(inputs)
    return inputs
