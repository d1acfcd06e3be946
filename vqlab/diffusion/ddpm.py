"""Denoising diffusion in discrete times with a learned or fixed variance.

gaussian_diffusion.py of the released Semanticist, which follows DiT and Improved DDPM.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from vqlab.diffusion import schedule as schedules
from vqlab.diffusion.likelihood import discretized_log_likelihood, normal_kl
from vqlab.diffusion.process import (
    Denoise,
    check_output,
    choose,
    mean_per_sample,
    per_sample,
)
from vqlab.diffusion.sampling import scan_steps

PREDICTIONS = ("epsilon", "x_0")
FIXED_VARIANCES = ("large", "small")
SAMPLERS = ("ancestral", "ddim")


class Reverse(NamedTuple):
    """p(x_{t-1} | x_t): `mean` and `log_variance`, and the `x_0` they rest on; all [B, ..., C]."""

    mean: jax.Array
    log_variance: jax.Array
    x_0: jax.Array


@dataclasses.dataclass(frozen=True)
class DDPM:
    """x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) noise, t = 0..T-1.

    Attributes:
      num_train_steps: T.
      schedule: "linear" or "cosine".
      prediction: what the first C output channels say, "epsilon" (the noise) or "x_0".
      learned_variance: C more output channels place each log variance between the smallest and
        the largest that is possible, -1..1 (Improved DDPM, eq. 15).
      fixed_variance: without them, "large" (beta) or "small" (the posterior's).
      sampler: "ancestral" or "ddim".
      eta: share of the ancestral noise that DDIM adds (DDIM, eq. 16); 0 is deterministic.
      spacing: which times a sampler visits, see `schedule.respaced_times`.
    """

    num_train_steps: int = 1000
    schedule: str = "linear"
    prediction: str = "epsilon"
    learned_variance: bool = True
    fixed_variance: str = "large"
    sampler: str = "ancestral"
    eta: float = 0.0
    spacing: str = "even"

    def __post_init__(self):
        choose("schedule", self.schedule, schedules.SCHEDULES)
        choose("prediction", self.prediction, PREDICTIONS)
        choose("fixed_variance", self.fixed_variance, FIXED_VARIANCES)
        choose("sampler", self.sampler, SAMPLERS)
        choose("spacing", self.spacing, schedules.SPACINGS)
        smallest = 21 if self.schedule == "linear" else 2  # below, its last beta reaches 1
        if self.num_train_steps < smallest:
            raise ValueError(
                f"num_train_steps={self.num_train_steps}: the {self.schedule} schedule takes at "
                f"least {smallest}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} is out of range: choose 0..1")

    def tables(self, num_steps: int | None = None) -> schedules.Tables:
        """Tables of all T times, or of the `num_steps` that a sampler visits."""
        betas = schedules.training_betas(self.schedule, self.num_train_steps)
        if num_steps is None:
            return schedules.tables(betas)
        times = schedules.respaced_times(self.num_train_steps, num_steps, self.spacing)
        return schedules.tables(betas, times)

    def output_channels(self, channels: int) -> int:
        """C, or 2C with a learned variance."""
        return 2 * channels if self.learned_variance else channels

    def network_time(self, t: Num[Array, " B"]) -> Float[Array, " B"]:
        """`t` itself, 0..T-1."""
        return t.astype(jnp.float32)

    def noisiness(self, t: Int[Array, " B"]) -> Float[Array, " B"]:
        """t / (T - 1)."""
        return t.astype(jnp.float32) / (self.num_train_steps - 1)

    def draw_times(self, key: jax.Array, batch: int) -> Int[Array, " B"]:
        """Uniform on 0..T-1."""
        return jax.random.randint(key, (batch,), 0, self.num_train_steps)

    def add_noise(
        self, x_0: Float[Array, "B ... C"], noise: Float[Array, "B ... C"], t: Int[Array, " B"]
    ) -> Float[Array, "B ... C"]:
        """x_t (DDPM, eq. 4)."""
        kept = self.tables().alphas_cumprod
        return _take(np.sqrt(kept), t, x_0) * x_0 + _take(np.sqrt(1 - kept), t, x_0) * noise

    def losses(
        self,
        output: Float[Array, "B ... c"],
        x_0: Float[Array, "B ... C"],
        noise: Float[Array, "B ... C"],
        t: Int[Array, " B"],
    ) -> dict[str, Float[Array, " B"]]:
        """Each sample's "loss" = "mse" of the prediction + "vb" where the variance is learned.

        "vb" is the term of the variational bound at t, in bits per number (Improved DDPM, eq. 16
        with lambda = 1); it trains the variance alone, no gradient reaches the prediction.
        """
        check_output(output, x_0, self.output_channels(x_0.shape[-1]))
        predicted, variance = _split(output, x_0)
        target = noise if self.prediction == "epsilon" else x_0
        mse = mean_per_sample(jnp.square(target - predicted))
        if not self.learned_variance:
            return {"loss": mse, "mse": mse}
        x_t = self.add_noise(x_0, noise, t)
        detached = jnp.concatenate([jax.lax.stop_gradient(predicted), variance], axis=-1)
        vb = self._bound(self.reverse(detached, x_t, t), x_t, x_0, t)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _bound(self, reverse: Reverse, x_t: Array, x_0: Array, t: Array) -> Array:
        """KL to the posterior, and at t = 0 the negative log likelihood; mean bits per number."""
        tables = self.tables()
        kl = normal_kl(
            _posterior_mean(tables, x_0, x_t, t),
            _take(tables.posterior_log_variance_clipped, t, x_t),
            reverse.mean,
            reverse.log_variance,
        )
        nll = -discretized_log_likelihood(x_0, reverse.mean, 0.5 * reverse.log_variance)
        return jnp.where(t == 0, mean_per_sample(nll), mean_per_sample(kl)) / math.log(2)

    def reverse(
        self,
        output: Float[Array, "B ... c"],
        x_t: Float[Array, "B ... C"],
        i: Int[Array, " B"],
        tables: schedules.Tables | None = None,
    ) -> Reverse:
        """p(x_{t-1} | x_t) that the network's output describes; t is entry `i` of the tables."""
        tables = self.tables() if tables is None else tables
        check_output(output, x_t, self.output_channels(x_t.shape[-1]))
        predicted, variance = _split(output, x_t)
        smallest = tables.posterior_log_variance_clipped
        if self.learned_variance:
            share = (variance + 1) / 2
            largest = _take(np.log(tables.betas), i, x_t)
            log_variance = share * largest + (1 - share) * _take(smallest, i, x_t)
        else:
            # Beta itself would be far off in the last step, whose noise the posterior knows.
            large = np.log(np.append(tables.posterior_variance[1], tables.betas[1:]))
            fixed = large if self.fixed_variance == "large" else smallest
            log_variance = jnp.broadcast_to(_take(fixed, i, x_t), x_t.shape)
        x_0 = predicted
        if self.prediction == "epsilon":
            kept = tables.alphas_cumprod
            x_0 = _take(np.sqrt(1 / kept), i, x_t) * x_t
            x_0 = x_0 - _take(np.sqrt(1 / kept - 1), i, x_t) * predicted
        return Reverse(_posterior_mean(tables, x_0, x_t, i), log_variance, x_0)

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
        """See `Process.sample`; one call of `denoise` a step."""
        sampler = choose("sampler", sampler or self.sampler, SAMPLERS)
        tables = self.tables(num_steps)
        next_state = self._ancestral if sampler == "ancestral" else self._ddim

        def step(x_t, i, step_noise):
            i = jnp.full(x_t.shape[0], i)
            output = denoise(x_t, jnp.asarray(tables.timesteps)[i])
            return next_state(self.reverse(output, x_t, i, tables), x_t, i, tables, step_noise)

        return scan_steps(
            step,
            noise,
            jnp.arange(num_steps)[::-1],
            key=key,
            is_random=sampler == "ancestral" or self.eta > 0,
            temperature=temperature,
            step_noise=step_noise,
            trajectory=trajectory,
        )

    def _ancestral(self, reverse: Reverse, x_t, i, tables, step_noise):
        """A draw from p(x_{t-1} | x_t), its mean at i = 0 (DDPM, algorithm 2)."""
        del x_t, tables
        spread = jnp.exp(0.5 * reverse.log_variance) * step_noise
        return reverse.mean + per_sample(i > 0, spread) * spread

    def _ddim(self, reverse: Reverse, x_t, i, tables, step_noise):
        """DDIM, eq. 12; x_0 at i = 0. The predicted variance is not used."""
        kept, kept_prev = tables.alphas_cumprod, tables.alphas_cumprod_prev
        sigma = self.eta * np.sqrt((1 - kept_prev) / (1 - kept) * (1 - kept / kept_prev))
        epsilon = _take(np.sqrt(1 / kept), i, x_t) * x_t - reverse.x_0
        epsilon = epsilon / _take(np.sqrt(1 / kept - 1), i, x_t)
        x = _take(np.sqrt(kept_prev), i, x_t) * reverse.x_0
        x = x + _take(np.sqrt(1 - kept_prev - sigma**2), i, x_t) * epsilon
        return x if step_noise is None else x + _take(sigma, i, x_t) * step_noise


def _take(table: np.ndarray, i: Array, like: Array | None = None) -> Array:
    """Entries `i` [B] as float32, [B] or shaped to multiply `like` [B, ...]."""
    values = jnp.asarray(table, jnp.float32)[i]
    return values if like is None else per_sample(values, like)


def _split(output: Array, x: Array) -> tuple[Array, Array]:
    """(prediction, variance or nothing) as float32."""
    channels = x.shape[-1]
    output = output.astype(jnp.float32)
    return output[..., :channels], output[..., channels:]


def _posterior_mean(tables: schedules.Tables, x_0: Array, x_t: Array, i: Array) -> Array:
    coefficients = tables.posterior_mean_coef1, tables.posterior_mean_coef2
    return _take(coefficients[0], i, x_0) * x_0 + _take(coefficients[1], i, x_t) * x_t
