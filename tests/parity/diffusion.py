"""Diffusion schedules, losses and samplers with a network that is a formula (*_diffusion.npz)."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.official import to_nchw, to_nhwc
from tests.parity.report import Report, Unsupported
from vqlab.diffusion import schedule
from vqlab.diffusion.ddpm import DDPM

NUMBER = r"([-+.\de]+)"
FORMULA = re.compile(
    rf".*eps = {NUMBER}\*x\*cos\({NUMBER}\*t\) \+ {NUMBER}\*sin\({NUMBER}\*x\); "
    rf"variance channels v = {NUMBER}\*sin\(x \+ {NUMBER}\*t\);.*"
)
KEY = jax.random.key(0)  # unused: the noise of every step is given


def check_diffusion(report: Report, config: dict) -> None:
    """Every array of the file; the released names of processes are "N" and "ddimN"."""
    denoise = _formula(config["model"])
    for name in list(report.arrays):
        key = name.removeprefix("out/")
        if match := re.fullmatch(r"(linear|cosine)(\d+)/(\w+)", key):
            tables = DDPM(int(match[2]), match[1]).tables()
            field = "betas" if match[3] == "original_betas" else match[3]
            report.close(name, getattr(tables, field))
        elif match := re.fullmatch(r"timestep_map/(ddim)?(\d+)", key):
            report.equal(name, _respaced(match[1], match[2]).timesteps)
        elif match := re.fullmatch(r"respaced_?(ddim)?(\d+)/(\w+)", key):
            report.close(name, getattr(_respaced(match[1], match[2]), match[3]))
    _check_losses(report, denoise)
    for name in list(report.arrays):
        if match := re.fullmatch(r"out/p(\d+)(_\w+[\d.]*)?/samples", name):
            _check_sampler(report, denoise, name, int(match[1]), DDPM(), match[2] or "")
        elif match := re.fullmatch(r"out/ddim(\d+)_eta([\d.]+)/samples", name):
            process = DDPM(sampler="ddim", eta=float(match[2]))
            _check_sampler(report, denoise, name, int(match[1]), process, "")


def _formula(text: str):
    """The network that config.model describes, channels last and t [B]."""
    match = FORMULA.fullmatch(text)
    if match is None:
        raise Unsupported(f"unknown formula of the network: {text}")
    a, b, c, d, e, f = map(float, match.groups())

    def denoise(x, t):
        t = t.astype(jnp.float32).reshape(-1, 1, 1, 1)
        epsilon = a * x * jnp.cos(b * t) + c * jnp.sin(d * x)
        return jnp.concatenate([epsilon, e * jnp.sin(x + f * t)], axis=-1)

    return denoise


def _respaced(is_stride: str | None, num_steps: str) -> schedule.Tables:
    return DDPM(spacing="stride" if is_stride else "even").tables(int(num_steps))


def _check_losses(report: Report, denoise) -> None:
    x_0, noise = (jnp.asarray(to_nhwc(report.arrays[name])) for name in ("in/x0", "in/noise"))
    t = jnp.asarray(report.arrays["in/t"])
    process = DDPM()
    x_t = process.add_noise(x_0, noise, t)
    output = denoise(x_t, t)
    report.close("out/loss/x_t", to_nchw(x_t))
    reverse = process.reverse(output, x_t, t)
    report.close("out/pmv/mean", to_nchw(reverse.mean))
    report.close("out/pmv/log_variance", to_nchw(reverse.log_variance))
    report.close("out/pmv/pred_xstart", to_nchw(reverse.x_0))
    fixed = DDPM(learned_variance=False)
    for prefix, losses in {
        "loss": process.losses(output, x_0, noise, t),
        "loss_predict_xstart": DDPM(prediction="x_0").losses(output, x_0, noise, t),
        "loss_fixed_sigma": fixed.losses(output[..., : x_0.shape[-1]], x_0, noise, t),
    }.items():
        for term in losses:
            if f"out/{prefix}/{term}" in report.arrays:
                report.close(f"out/{prefix}/{term}", losses[term])


def _check_sampler(
    report: Report, denoise, name: str, num_steps: int, process: DDPM, variant: str
) -> None:
    """All states, and the x_0 predicted on the way where the file has it."""
    start = jnp.asarray(to_nhwc(report.arrays["in/z"]))
    step_noise = np.stack([to_nhwc(noise) for noise in report.arrays["in/step_noise"]])
    temperature = 1.0
    if variant.startswith("_temp"):
        temperature = float(variant.removeprefix("_temp"))
    elif variant == "_zero_noise":
        step_noise = np.zeros_like(step_noise)
    elif variant:
        return  # left for the report to name
    _, states = jax.jit(
        lambda start, step_noise: process.sample(
            denoise,
            start,
            key=KEY,
            num_steps=num_steps,
            temperature=temperature,
            step_noise=step_noise,
            trajectory=True,
        )
    )(start, step_noise)
    report.close(name, np.stack([to_nchw(state) for state in states]))
    predicted = name.replace("/samples", "/pred_xstart")
    if predicted in report.arrays:
        tables = process.tables(num_steps)
        before = jnp.concatenate([start[None], states[:-1]])
        ours = []
        for i, x_t in zip(reversed(range(num_steps)), before, strict=True):
            i = jnp.full(len(x_t), i)
            output = denoise(x_t, jnp.asarray(tables.timesteps)[i])
            ours.append(to_nchw(process.reverse(output, x_t, i, tables).x_0))
        report.close(predicted, np.stack(ours))
