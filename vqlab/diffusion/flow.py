"""Flow matching on the straight path from noise to data.

The linear path and velocity prediction of SiT (transport.py), which the released Semanticist uses
for its second stage.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vqlab.diffusion.process import (
    Denoise,
    check_output,
    choose,
    mean_per_sample,
    per_sample,
)
from vqlab.diffusion.sampling import scan_steps
from vqlab.ops.counts import check_count

SAMPLERS = ("euler", "heun", "euler_maruyama")
# The random sampler goes this far and then takes the mean of one step to t = 1.
LAST_RANDOM_TIME = 0.96


@dataclasses.dataclass(frozen=True)
class Flow:
    """x_t = t x_0 + (1 - t) noise; the network predicts the velocity x_0 - noise. t = 0 is noise.

    Attributes:
      time_scale: the network's time embedding receives t * time_scale. Embeddings are made for
        0..1000; the released second stage nevertheless gives it t itself, time_scale = 1.
      sampler: "euler", "heun" (second order, two network calls a step) or "euler_maruyama" (random,
        with the diffusion 1 - t).
    """

    time_scale: float = 1000.0
    sampler: str = "euler"

    def __post_init__(self):
        choose("sampler", self.sampler, SAMPLERS)
        if not 0 < self.time_scale < float("inf"):
            raise ValueError(f"time_scale={self.time_scale} must be positive")

    def output_channels(self, channels: int) -> int:
        """C."""
        return channels

    def network_time(self, t: Float[Array, " B"]) -> Float[Array, " B"]:
        """t * time_scale."""
        return t * self.time_scale

    def noisiness(self, t: Float[Array, " B"]) -> Float[Array, " B"]:
        """1 - t."""
        return 1 - t

    def draw_times(self, key: jax.Array, batch: int) -> Float[Array, " B"]:
        """Uniform on [0, 1)."""
        return jax.random.uniform(key, (batch,))

    def add_noise(
        self, x_0: Float[Array, "B ... C"], noise: Float[Array, "B ... C"], t: Float[Array, " B"]
    ) -> Float[Array, "B ... C"]:
        """x_t."""
        t = per_sample(t, x_0)
        return t * x_0 + (1 - t) * noise

    def losses(
        self,
        output: Float[Array, "B ... C"],
        x_0: Float[Array, "B ... C"],
        noise: Float[Array, "B ... C"],
        t: Float[Array, " B"],
    ) -> dict[str, Float[Array, " B"]]:
        """Each sample's "loss", the "mse" of the velocity."""
        del t
        check_output(output, x_0, x_0.shape[-1])
        mse = mean_per_sample(jnp.square(output.astype(jnp.float32) - (x_0 - noise)))
        return {"loss": mse, "mse": mse}

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
        """See `Process.sample`. The last step of "euler_maruyama" adds no noise."""
        sampler = choose("sampler", sampler or self.sampler, SAMPLERS)
        is_random = sampler == "euler_maruyama"
        check_count("num_steps", num_steps, 2 if is_random else 1)

        def velocity(x_t, t):
            output = denoise(x_t, jnp.full(x_t.shape[0], t))
            check_output(output, x_t, x_t.shape[-1])
            return output.astype(jnp.float32)

        def euler(x_t, times, step_noise):
            t, dt = times
            return x_t + velocity(x_t, t) * dt

        def heun(x_t, times, step_noise):
            t, dt = times
            first = velocity(x_t, t)
            second = velocity(x_t + first * dt, t + dt)
            return x_t + (first + second) * (dt / 2)

        def euler_maruyama(x_t, times, step_noise):
            t, dt, spread = times
            # velocity + diffusion * score, with diffusion = 1 - t and score = (t v - x) / (1 - t)
            drift = (1 + t) * velocity(x_t, t) - x_t
            return x_t + drift * dt + spread * step_noise

        steps = {"euler": euler, "heun": heun, "euler_maruyama": euler_maruyama}
        return scan_steps(
            steps[sampler],
            noise,
            _random_times(num_steps) if is_random else _even_times(num_steps),
            key=key,
            is_random=is_random,
            temperature=temperature,
            step_noise=step_noise,
            trajectory=trajectory,
        )


def _even_times(num_steps: int) -> tuple[Array, Array]:
    """(t, dt), each [N], of equal steps from 0 to 1."""
    t = np.arange(num_steps) / num_steps
    return _float32(t, np.full(num_steps, 1 / num_steps))


def _random_times(num_steps: int) -> tuple[Array, Array, Array]:
    """(t, dt, factor of the noise), each [N]: N - 1 equal random steps, and one to the mean."""
    t, dt = np.linspace(0, LAST_RANDOM_TIME, num_steps, retstep=True)
    spread = np.sqrt(2 * (1 - t) * dt)
    steps = np.full(num_steps, dt)
    steps[-1], spread[-1] = 1 - LAST_RANDOM_TIME, 0
    return _float32(t, steps, spread)


def _float32(*arrays: np.ndarray) -> tuple[Array, ...]:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)
