"""Noise schedules of DDPM, and the schedule of a subset of its times.

Tables are float64 NumPy arrays, so that only what is taken from them is rounded to float32
(openai/improved-diffusion gaussian_diffusion.py and respace.py, as used by DiT and Semanticist).
"""

from typing import NamedTuple

import numpy as np

from vqlab.ops.counts import check_count

SCHEDULES = ("linear", "cosine")
SPACINGS = ("even", "stride")


class Tables(NamedTuple):
    """All [N] float64, from little noise to much; `timesteps` int32.

    timesteps: the times of the whole process that step i stands for.
    betas: variance of the noise added by step i.
    alphas_cumprod: squared factor of x_0 in x_t; `_prev` is that of the step before, 1 at i = 0.
    posterior_variance: of q(x_{i-1} | x_i, x_0), whose mean is
      posterior_mean_coef1 * x_0 + posterior_mean_coef2 * x_i (DDPM, eq. 7).
    posterior_log_variance_clipped: its logarithm, with that of i = 1 at i = 0, where it is -inf.
    """

    timesteps: np.ndarray
    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_variance_clipped: np.ndarray
    posterior_mean_coef1: np.ndarray
    posterior_mean_coef2: np.ndarray


def training_betas(schedule: str, num_train_steps: int) -> np.ndarray:
    """[T] float64: "linear" from 1e-4 to 0.02 at T = 1000, or "cosine" (Improved DDPM, eq. 17)."""
    if schedule == "linear":
        scale = 1000 / num_train_steps
        return np.linspace(scale * 1e-4, scale * 0.02, num_train_steps, dtype=np.float64)
    times = np.arange(num_train_steps + 1, dtype=np.float64) / num_train_steps
    alphas_cumprod = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)


def respaced_times(num_train_steps: int, num_steps: int, spacing: str = "even") -> list[int]:
    """`num_steps` of the times 0..T-1, ascending.

    "even" spreads them over 0..T-1 with both ends; "stride" takes every T / num_steps-th from 0,
    the released code's "ddim25". ValueError for a number of steps that is not possible.
    """
    check_count("num_steps", num_steps, 2, num_train_steps)
    if spacing == "stride":
        for stride in range(1, num_train_steps):
            times = range(0, num_train_steps, stride)
            if len(times) == num_steps:
                return list(times)
        raise ValueError(
            f"num_steps={num_steps}: no whole stride takes so many of {num_train_steps} times; "
            "choose spacing 'even'"
        )
    times, stride = [0.0], (num_train_steps - 1) / (num_steps - 1)
    while len(times) < num_steps:
        times.append(times[-1] + stride)  # summed, not multiplied: rounds as the released code
    return [round(time) for time in times]


def tables(betas: np.ndarray, times: list[int] | None = None) -> Tables:
    """Tables of the whole process, or of the one that visits only the given times, ascending."""
    alphas_cumprod = np.cumprod(1 - betas)
    if times is None:
        times = list(range(len(betas)))
    else:
        alphas_cumprod = alphas_cumprod[times]
        betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
        alphas_cumprod = np.cumprod(1 - betas)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
    return Tables(
        timesteps=np.asarray(times, np.int32),
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        posterior_variance=posterior_variance,
        posterior_log_variance_clipped=np.log(
            np.append(posterior_variance[1], posterior_variance[1:])
        ),
        posterior_mean_coef1=betas * np.sqrt(alphas_cumprod_prev) / (1 - alphas_cumprod),
        posterior_mean_coef2=(
            (1 - alphas_cumprod_prev) * np.sqrt(1 - betas) / (1 - alphas_cumprod)
        ),
    )
