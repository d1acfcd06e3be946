"""What every diffusion process offers to objectives, evaluators and decoders, and their checks."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Denoise = Callable[[Array, Array], Array]


@runtime_checkable
class Process(Protocol):
    """How data x_0 turn into noise over a time `t`, and back with the help of a network.

    Implementations are frozen dataclasses of plain numbers, so a jitted function can close over
    them. Data are [B, ..., C] float32, times [B] in the process's own unit.
    """

    def output_channels(self, channels: int) -> int:
        """Channels of the network's output for data of `channels`."""

    def network_time(self, t: Num[Array, " B"]) -> Float[Array, " B"]:
        """What the network's time embedding receives for times `t`."""

    def noisiness(self, t: Num[Array, " B"]) -> Float[Array, " B"]:
        """Where `t` lies on the way from data, 0, to pure noise, 1, evenly in time."""

    def draw_times(self, key: jax.Array, batch: int) -> Num[Array, " B"]:
        """Random times for training."""

    def add_noise(
        self, x_0: Float[Array, "B ... C"], noise: Float[Array, "B ... C"], t: Num[Array, " B"]
    ) -> Float[Array, "B ... C"]:
        """x_t."""

    def losses(
        self,
        output: Float[Array, "B ... c"],
        x_0: Float[Array, "B ... C"],
        noise: Float[Array, "B ... C"],
        t: Num[Array, " B"],
    ) -> dict[str, Float[Array, " B"]]:
        """Each sample's "loss", which training minimises, and its terms, among them "mse".

        `output` is the network's at x_t; its channels are output_channels(C).
        """

    def sample(
        self,
        denoise: Denoise,
        noise: Float[Array, "B ... C"],
        *,
        key: jax.Array,
        num_steps: int,
        sampler: str = "",
        temperature: float | Array = 1.0,
        step_noise: Float[Array, "N B ... C"] | None = None,
        trajectory: bool = False,
    ) -> Array | tuple[Array, Array]:
        """x_0 [B, ..., C] from `noise`, and with `trajectory` the states [N, B, ..., C] as well.

        Args:
          denoise: maps (x_t, t [B]) to the network's output.
          noise: where sampling starts, standard normal.
          key: of the noise that a random sampler adds at each step.
          num_steps: N, a Python int.
          sampler: "" for the process's own.
          temperature: factor of that noise; 0 takes the mean of each step.
          step_noise: the noise of each step, instead of drawing it.

        The steps are one `jax.lax.scan`. State i is x after step i, so the last one is x_0.
        Raises ValueError for a sampler or a number of steps that the process cannot take.
        """


def per_sample(values: Array, x: Array) -> Array:
    """[B] as [B, 1, ..., 1], to multiply `x` [B, ...]."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def mean_per_sample(x: Array) -> Array:
    """[B, ...] to means [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def choose(what: str, name: str, choices: tuple[str, ...]) -> str:
    """`name`; ValueError lists the choices."""
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {list(choices)}")
    return name


def check_output(output: Array, x: Array, channels: int) -> None:
    """Raises ValueError unless the network's output is like `x`, with `channels` channels."""
    if output.shape != (*x.shape[:-1], channels):
        raise ValueError(
            f"the network's output {output.shape} must be {(*x.shape[:-1], channels)} for data "
            f"of {x.shape[-1]} channels"
        )
