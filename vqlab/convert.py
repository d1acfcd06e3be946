"""Moves tokenizers between runs, exported folders and the official files of their papers.

python -m vqlab.convert export DIR OUT                               a run's weights -> a folder
python -m vqlab.convert from-official FILE OUT --config=configs/mgvq_f16.py
python -m vqlab.convert from-official FILE OUT --config=configs/semanticist_l.py --latents=kl16.ckpt
python -m vqlab.convert to-official DIR OUT.safetensors              official names and layouts
python -m vqlab.convert to-diffusers DIR OUT                         a KL autoencoder for diffusers
python -m vqlab.convert lpips vgg16.pth,vgg.pth OUT.safetensors      LPIPS in one file

DIR is a workdir or an exported folder. Files are .safetensors, .npz, or PyTorch's .pt, .pth, .ckpt
and .pkl, of which only tensors are read: no code in them runs. The official file may be MGVQ's,
Semanticist's (model.safetensors or the averaged weights), or a KL autoencoder's in the naming of
LDM and MAR or of diffusers.

Whatever a model was trained in, the folder says float32, and that is what vqlab.load computes in;
--dtype=bfloat16 says otherwise, --dtype=config what the config says.
"""

from __future__ import annotations

import argparse
import pathlib
import runpy
import sys

from vqlab import cli, inference, models
from vqlab.export import lpips_weights, package, torch_weights
from vqlab.export.diffusers_folder import save_diffusers
from vqlab.export.kl_weights import kl_to_state, read_kl
from vqlab.home import expand_home
from vqlab.models.dtypes import DTYPES, FLOAT32
from vqlab.nn.bottleneck import GaussianBottleneck


def read_config(config: str):
    """The config of a file, given as `FILE.py` or `FILE.py:argument`."""
    path, _, argument = config.partition(":")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"no config file {path}")
    return runpy.run_path(str(file))["get_config"](argument)


def export(source: str, output: str, step: str, dtype: str = FLOAT32) -> str:
    """Writes a run's tokenizer as a folder that needs no training code to load."""
    node, params, variables, sampling = inference.read(source, step)
    facts = {"exported from": source, "step": step}
    return str(package.save_package(output, node, params, variables, facts, sampling, dtype))


def from_official(
    weights: str, output: str, config: str, latents: str, dtype: str = FLOAT32
) -> str:
    """Writes an official state dict as a folder; every tensor must fit, once."""
    chosen = read_config(config)
    node = chosen.model.to_dict()
    model = models.build(node)
    template = package.abstract_variables(model)
    needs_latents = template.pop("latent_space", None) is not None
    if needs_latents and not latents:
        raise ValueError("the model decodes latents: give their autoencoder as --latents=kl16.ckpt")
    params, variables = read_official(weights, model, template)
    if needs_latents:
        autoencoder = model.latent_space.autoencoder
        variables["latent_space"] = {"params": read_kl(latents, autoencoder)}
    facts = {"converted from": weights}
    sampling = chosen.sampling.to_dict() if "sampling" in chosen else None
    return str(package.save_package(output, node, params, variables, facts, sampling, dtype))


def read_official(weights: str, model, template: dict) -> tuple[dict, dict]:
    """(params, variables) of a model from the official file."""
    if isinstance(getattr(model, "quantizer", None), GaussianBottleneck):
        return read_kl(weights, model), {}
    return torch_weights.from_torch_state(torch_weights.read_state_dict(weights), template)


def to_official(source: str, output: str, step: str, latents: str = "") -> str:
    """Writes a tokenizer under the official names, in the official layouts."""
    from vqlab.workdir import load_tokenizer

    if latents:
        autoencoder = read_latent_autoencoder(source, step)
    node, params, variables = load_tokenizer(source, step)
    if isinstance(getattr(models.build(node), "quantizer", None), GaussianBottleneck):
        state = kl_to_state(params, naming="ldm")
    else:
        state = torch_weights.to_torch_state(params, variables)
    torch_weights.write_state_dict(output, state)
    if latents:
        torch_weights.write_state_dict(latents, kl_to_state(autoencoder, naming="ldm"))
        return f"{output}\n{latents}"
    return output


def read_latent_autoencoder(source: str, step: str) -> dict:
    """Parameters of the frozen autoencoder of a Semanticist's latents."""
    node, _, variables, _ = inference.read(source, step)
    if not variables.get("latent_space"):
        raise ValueError(f"{source} holds a {node['name']} without an autoencoder: no --latents")
    return variables["latent_space"]["params"]


def to_diffusers(source: str, output: str, step: str, scaling_factor: float = 1.0) -> str:
    """Writes a KL autoencoder as a folder for diffusers' AutoencoderKL.from_pretrained."""
    node, params, _, _ = inference.read(source, step)
    model = models.build(node)
    if not isinstance(getattr(model, "quantizer", None), GaussianBottleneck):
        raise ValueError(f"{source} is no KL autoencoder: diffusers has no such model")
    return str(save_diffusers(output, model, params, scaling_factor))


def lpips(weights: str, output: str) -> str:
    """Merges the two official files of LPIPS into one."""
    lpips_weights.save_lpips(output, lpips_weights.read_lpips(weights))
    return output


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m vqlab.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, *arguments):
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        for argument, text in arguments:
            sub.add_argument(argument, help=text)
        sub.set_defaults(run=function)
        return sub

    def dtype_option(sub):
        sub.add_argument("--dtype", default=FLOAT32, choices=DTYPES, help="of its activations")

    def step_option(sub):
        text = "of a workdir: latest (default), best or a number"
        sub.add_argument("--step", default="latest", help=text)

    source = ("source", "a workdir or an exported folder")
    sub = command("export", export, source, ("output", "the folder to write"))
    step_option(sub)
    dtype_option(sub)
    sub = command(
        "from-official", from_official, ("weights", "the official file"), ("output", "the folder")
    )
    sub.add_argument("--config", required=True, help="whose model it is, FILE.py:groups=8")
    sub.add_argument("--latents", default="", help="the autoencoder of Semanticist's latents")
    dtype_option(sub)
    sub = command("to-official", to_official, source, ("output", "the file to write"))
    step_option(sub)
    sub.add_argument("--latents", default="", help="also write the autoencoder of the latents here")
    sub = command("to-diffusers", to_diffusers, source, ("output", "the folder to write"))
    step_option(sub)
    sub.add_argument("--scaling-factor", type=float, default=1.0, help="of latents in pipelines")
    command("lpips", lpips, ("weights", "vgg16.pth,vgg.pth"), ("output", "the file to write"))
    return top


def main(argv: list[str] | None = None) -> None:
    """Runs one command and prints what it wrote."""
    arguments = vars(parser().parse_args(expand_home(sys.argv[1:] if argv is None else argv)))
    cli.start_logging()
    with cli.exit_on_error():
        print(arguments.pop("run")(**arguments))


if __name__ == "__main__":
    main()
