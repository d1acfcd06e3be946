"""The denoising head with its loss and samplers, discrete and continuous (*_diffloss_*.npz)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.parity.report import GRADIENT_LIMIT, Report, Unsupported
from vqlab.diffusion.ddpm import DDPM
from vqlab.diffusion.flow import Flow
from vqlab.diffusion.guidance import Guidance, guided_denoiser
from vqlab.diffusion.process import Process
from vqlab.export.gpt_names import official_names
from vqlab.models.diffusion_mlp import DiffusionMLP

KEY = jax.random.key(0)  # unused: the noise of every step is given


def check_diffloss(report: Report, config: dict) -> None:
    """Network, loss, gradients and samples of one file."""
    channels = config["target_channels"]
    process = _process(config)
    model = DiffusionMLP(
        out_channels=process.output_channels(channels),
        width=config["width"],
        depth=config["depth"],
        conditioning=config["cond_method"],
    )
    params = _params(report.arrays, model, channels, config["z_channels"])
    _check_network(report, model, params)
    _check_training(report, model, params, process)
    for name in list(report.arrays):
        if match := re.fullmatch(r"out/(sample(?:_(temp|cfg)([\d.]+))?)/out", name):
            options = {match[2]: float(match[3])} if match[2] else {}
            _check_sampler(report, config, model, params, process, f"out/{match[1]}", **options)


def _process(config: dict) -> Process:
    if not config["use_si"]:
        return flow_or_ddpm(False)
    expected = {
        "diffusion_form": "sigma",
        "last_step": "Mean",
        "last_step_size": 0.04,
        "method": "Euler",
        "t0": 0,
        "t1": 0.96,
    }
    for name, value in expected.items():
        if config["sde"][name] != value:
            raise Unsupported(f"{name}={config['sde'][name]!r} is not supported, only {value!r}")
    return flow_or_ddpm(True)


def flow_or_ddpm(is_flow: bool) -> Process:
    """The two processes of the released second stage."""
    flow = Flow(time_scale=1.0, sampler="euler_maruyama")
    return flow if is_flow else DDPM(schedule="cosine")


def official_name(path: tuple[str, ...]) -> str:
    """The released tensor name of a parameter."""
    full = "/".join(("params", "head", *path))
    return official_names([full])[full].removeprefix("diffloss.")


def _params(arrays: dict, model: DiffusionMLP, channels: int, condition_channels: int) -> dict:
    inputs = jnp.zeros((1, channels)), jnp.zeros(1), jnp.zeros((1, condition_channels))
    shapes = flatten_dict(jax.eval_shape(model.init, KEY, *inputs)["params"])
    unused = {name for name in arrays if name.startswith("w/")}
    params = {}
    for path, shape in shapes.items():
        name = f"w/{official_name(path)}"
        unused.remove(name)
        params[path] = jnp.asarray(arrays[name].T)
        assert params[path].shape == shape.shape, name
    if unused:
        raise Unsupported(f"weights without a place: {sorted(unused)}")
    return unflatten_dict(params)


def _check_network(report: Report, model: DiffusionMLP, params: dict) -> None:
    target, t, z = (jnp.asarray(report.arrays[f"in/{name}"]) for name in ("target", "net_t", "z"))
    output, state = model.apply(
        {"params": params},
        target,
        t,
        z,
        capture_intermediates=lambda module, _: module.name == "time_fc2",
    )
    report.close("out/net", output)
    report.close("out/net_time_embed", state["intermediates"]["time_fc2"]["__call__"][0])


def _check_training(report: Report, model: DiffusionMLP, params: dict, process: Process) -> None:
    x_0, z, noise, t, mask = (
        jnp.asarray(report.arrays[f"in/{name}"]) for name in ("target", "z", "noise", "t", "mask")
    )

    def objective(params, z):
        x_t = process.add_noise(x_0, noise, t)
        output = model.apply({"params": params}, x_t, process.network_time(t), z)
        losses = process.losses(output, x_0, noise, t)
        return jnp.mean(losses["loss"]), (output, losses)

    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (loss, (output, losses)), (grads, grad_z) = jax.jit(gradient)(params, z)
    report.close("out/loss", loss)
    report.close("out/loss_per_sample", losses["loss"])
    report.close("out/loss_masked", jnp.sum(losses["loss"] * mask) / jnp.sum(mask))
    if "out/pred" in report.arrays:
        report.close("out/pred", output)
    if "out/vb" in report.arrays:
        report.close("out/mse", losses["mse"])
        report.close("out/vb", losses["vb"])
    report.close("out/grad_z", grad_z, GRADIENT_LIMIT)
    for path, grad in flatten_dict(grads).items():
        norm = np.linalg.norm(np.asarray(grad, np.float64))
        report.close(f"out/grad_norm/{official_name(path)}", norm, GRADIENT_LIMIT)


def _check_sampler(
    report: Report,
    config: dict,
    model: DiffusionMLP,
    params: dict,
    process: Process,
    prefix: str,
    *,
    temp: float = 1.0,
    cfg: float = 1.0,
) -> None:
    """One sampling loop, with the noise of the conditional half."""
    start, condition, unconditional = (
        jnp.asarray(report.arrays[f"in/{name}"]) for name in ("sample_noise0", "z", "z_uncond")
    )
    step_noise = report.arrays["in/step_noise"][:, : len(start)]
    num_steps = config["sde"]["num_steps"] if config["use_si"] else len(config["timestep_map"])
    # The last step of the interpolant takes no noise.
    step_noise = np.pad(step_noise, ((0, num_steps - len(step_noise)), (0, 0), (0, 0)))
    if cfg != 1:
        condition = jnp.concatenate([condition, unconditional])

    def denoise(x_t, t):
        return model.apply({"params": params}, x_t, process.network_time(t), condition)

    if cfg != 1:
        denoise = guided_denoiser(denoise, process, Guidance(cfg), start.shape[-1])
    x_0, states = jax.jit(
        lambda start, step_noise: process.sample(
            denoise,
            start,
            key=KEY,
            num_steps=num_steps,
            temperature=temp,
            step_noise=step_noise,
            trajectory=True,
        )
    )(start, step_noise)
    report.close(f"{prefix}/out", x_0)
    steps = np.asarray(config["trajectory_steps"])
    report.close(f"{prefix}/trajectory", np.asarray(states)[steps])
