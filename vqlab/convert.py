"""Moves tokenizers and generators between runs, exported folders and official files of the papers.

python -m vqlab.convert export DIR OUT                               a run's weights -> a folder
python -m vqlab.convert push DIR user/name                           to the Hugging Face Hub
python -m vqlab.convert from-official FILE OUT --config=configs/mgvq_f16.py
python -m vqlab.convert from-official FILE OUT --config=configs/semanticist_l.py --latents=kl16.ckpt
python -m vqlab.convert from-official FILE OUT --config=configs/mgvq_gpt_b.py --tokenizer=DIR
python -m vqlab.convert to-official DIR OUT.safetensors              official names and layouts
python -m vqlab.convert to-diffusers DIR OUT                         a KL autoencoder for diffusers
python -m vqlab.convert stablehlo DIR OUT                            programs for jax without vqlab
python -m vqlab.convert lpips vgg16.pth,vgg.pth OUT.safetensors      LPIPS in one file
python -m vqlab.convert inception FILE OUT.safetensors               FID's Inception, without pickle

DIR is a workdir, an exported folder, or user/name of one on the Hugging Face Hub. Files are
.safetensors, .npz, or PyTorch's .pt, .pth, .ckpt and .pkl, of which only tensors are read: no code
in them runs. The official file may be MGVQ's, Semanticist's (model.safetensors or the averaged
weights), TiTok's, that of a second stage, with the tokenizer that it was trained on, or a KL
autoencoder's in the naming of LDM and MAR or of diffusers, whose folder (save_pretrained) may stand
for the file. Of a training checkpoint the averaged weights are read if it has any; --weights=model
takes the others.

Whatever a model was trained in, the folder says float32, and that is what vqlab.load computes in;
--dtype=bfloat16 says otherwise, --dtype=config what the config says.
"""

from __future__ import annotations

import argparse
import pathlib
import runpy
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from vqlab import inference, models
from vqlab.export import hub, inception_weights, lpips_weights, official, package
from vqlab.export import stablehlo as programs
from vqlab.export.card import UNKNOWN_LICENSE
from vqlab.export.diffusers_folder import save_diffusers
from vqlab.export.frozen import NETWORKS, read_networks
from vqlab.export.stablehlo_functions import IMAGE_SIZE
from vqlab.export.torch_weights import write_state_dict
from vqlab.host import cli
from vqlab.host.home import expand_home
from vqlab.models.codec import Weights
from vqlab.models.dtypes import DTYPES, FLOAT32
from vqlab.models.generator import TOKENIZER

_LATENTS = "the frozen network that decoding takes, such as Semanticist's autoencoder"


def read_config(config: str):
    """The config of a file, given as `FILE.py` or `FILE.py:argument`."""
    path, _, argument = config.partition(":")
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"no config file {path}")
    return runpy.run_path(str(file))["get_config"](argument)


def export(
    source: str, output: str, step: str, dtype: str = FLOAT32, license: str = UNKNOWN_LICENSE
) -> str:
    """Writes a run's tokenizer as a folder that needs no training code to load."""
    facts = {"exported from": source, "step": step}
    return str(package.save_package(output, inference.read(source, step), facts, dtype, license))


def push(source: str, repository: str, step: str = "latest", **options: Any) -> str:
    """Uploads a tokenizer to the Hugging Face Hub, where vqlab.load("user/name") finds it."""
    hub.check_upload(repository)
    folder = pathlib.Path(source)
    if package.is_package(folder):
        return hub.push(folder, repository, **options)
    with tempfile.TemporaryDirectory(prefix="vqlab-push-") as scratch:
        # Where the run lay on this machine is nobody else's business.
        package.save_package(scratch, inference.read(folder, step), {"step": step})
        return hub.push(scratch, repository, **options)


def from_official(
    weights: str,
    output: str,
    config: str,
    latents: str,
    part: str = "",
    dtype: str = FLOAT32,
    license: str = UNKNOWN_LICENSE,
    tokenizer: str = "",
) -> str:
    """Writes an official state dict as a folder; every tensor must fit, once."""
    chosen = read_config(config)
    if tokenizer:
        place_tokenizer(chosen, tokenizer)
    node = chosen.model.to_dict()
    model = models.build(node)
    frozen = _read_parts(model.frozen_parts(), latents, tokenizer)
    variables = official.read_variables(weights, package.abstract_variables(model), part)
    sampling = chosen.sampling.to_dict() if "sampling" in chosen else {}
    converted = package.Package(node, Weights(variables, frozen), sampling)
    facts = {"converted from": weights}
    return str(package.save_package(output, converted, facts, dtype, license))


def _read_parts(parts: Mapping[str, Any], latents: str, tokenizer: str) -> dict[str, Any]:
    """Variables of a model's frozen parts; a tokenizer brings those that it takes itself."""
    files = {name: tokenizer if name == TOKENIZER else latents for name in NETWORKS}
    if TOKENIZER in parts and not tokenizer:
        raise ValueError(
            "the model draws codes: give the tokenizer that made them as --tokenizer=DIR"
        )
    if parts and not (latents or tokenizer):
        titles = " and ".join(NETWORKS[name].title for name in parts)
        raise ValueError(f"decoding takes a frozen {titles}: give its file as --latents=FILE")
    return read_networks(files, parts, needed=parts, read_whole=inference.read)


def place_tokenizer(config: Any, path: str) -> None:
    """Makes the tokenizer in a folder that of a generator's config.

    Raises:
      ValueError: the config is no generator's, or no tokenizer is there.
    """
    from vqlab.runs.whole_networks import place_nodes

    if "tokenizer" not in config.objective:
        raise ValueError("--tokenizer is of generators, and the config's model is none")
    config.objective.tokenizer = path
    place_nodes(config)


def to_official(source: str, output: str, step: str, latents: str = "") -> str:
    """Writes a tokenizer under the official names, in the official layouts."""
    from vqlab.runs.workdir import read_trained

    if not latents:
        _, variables = read_trained(source, step)
        write_state_dict(output, official.to_state(variables))
        return output
    node, weights, _ = inference.read(source, step)
    parts = [name for name in weights.frozen if name != TOKENIZER]
    if not parts:
        raise ValueError(
            f"{source} holds a {node['name']} without an autoencoder or the like: no --latents"
        )
    write_state_dict(output, official.to_state(weights.variables))
    (part,) = parts
    write_state_dict(latents, official.to_state(weights.frozen[part]))
    return f"{output}\n{latents}"


def to_diffusers(source: str, output: str, step: str, scaling_factor: float = 1.0) -> str:
    """Writes a KL autoencoder as a folder for diffusers' AutoencoderKL.from_pretrained."""
    node, weights, _ = inference.read(source, step)
    if official.scheme_of(weights.variables) != "kl":
        raise ValueError(f"{source} is no KL autoencoder: diffusers has no such model")
    params = weights.variables["params"]
    return str(save_diffusers(output, models.build(node), params, scaling_factor))


def stablehlo(
    source: str,
    output: str,
    step: str,
    dtype: str | None = None,
    image_size: int = 0,
    platforms: str = ",".join(programs.PLATFORMS),
) -> str:
    """Writes encode and decode, and of a generator generate, as programs that need jax alone.

    They take any number of images, groups and concepts; docs/programs.md says how to run them.
    """
    lowered = platforms.split(",")
    programs.check_output(output, lowered)
    loaded = inference.load(source, step, dtype)
    size = image_size
    return str(programs.save_network(output, loaded.subject, loaded.weights, size, lowered))


def lpips(weights: str, output: str) -> str:
    """Merges the two official files of LPIPS into one."""
    lpips_weights.save_lpips(output, lpips_weights.read_lpips(weights))
    return output


def inception(weights: str, output: str) -> str:
    """Writes FID's Inception from pytorch-fid's, torch-fidelity's or clean-fid's file."""
    inception_weights.convert_inception(weights, output)
    return output


def _step_option(sub: argparse.ArgumentParser) -> None:
    text = "of a workdir: latest (default), best or a number"
    sub.add_argument("--step", default="latest", help=text)


def _dtype_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dtype", default=FLOAT32, choices=DTYPES, help="of its activations")


def _license_option(sub: argparse.ArgumentParser, default: str, words: str) -> None:
    text = f"of the weights, for the model card: apache-2.0 or another of the Hub's list ({words})"
    sub.add_argument("--license", default=default, metavar="ID", help=text)


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

    _own_formats(command)
    _formats_of_others(command)
    return top


_SOURCE = ("source", "a workdir, an exported folder, or user/name")


def _own_formats(command) -> None:
    """export, push and stablehlo."""
    sub = command("export", export, _SOURCE, ("output", "the folder to write"))
    _step_option(sub)
    _dtype_option(sub)
    _license_option(sub, UNKNOWN_LICENSE, "default: unknown")
    here = ("source", "a workdir or an exported folder")
    sub = command("push", push, here, ("repository", "user/name; made if there is none"))
    _step_option(sub)
    _license_option(sub, "", "default: as the card says")
    sub.add_argument("--private", action="store_true", help="show it to nobody else")
    sub.add_argument("--revision", default="", help="a branch in place of main; made if needed")
    sub.add_argument("--message", default="", help="of the commit")
    sub = command("stablehlo", stablehlo, _SOURCE, ("output", "the folder to write"))
    _step_option(sub)
    text = "of its activations (default: as vqlab.load)"
    sub.add_argument("--dtype", default=None, choices=DTYPES, help=text)
    text = f"pixels along a side (default: {IMAGE_SIZE}, or the only ones that it takes)"
    sub.add_argument("--image-size", type=int, default=0, metavar="PIXELS", help=text)
    text = "to lower for, of cpu,cuda,rocm,tpu (default: %(default)s)"
    sub.add_argument("--platforms", default=",".join(programs.PLATFORMS), help=text)


def _formats_of_others(command) -> None:
    """Official files there and back, diffusers, and weights of frozen networks."""
    sub = command(
        "from-official", from_official, ("weights", "the official file"), ("output", "the folder")
    )
    sub.add_argument("--config", required=True, help="whose model it is, FILE.py:groups=8")
    sub.add_argument("--latents", default="", help=_LATENTS)
    sub.add_argument("--tokenizer", default="", help="of a generator: a workdir, export, user/name")
    sub.add_argument(
        "--weights",
        dest="part",
        default="",
        metavar="ema|model",
        help="which part of a training checkpoint, or its name (default: averaged, if it has any)",
    )
    _dtype_option(sub)
    _license_option(sub, UNKNOWN_LICENSE, "default: unknown")
    sub = command("to-official", to_official, _SOURCE, ("output", "the file to write"))
    _step_option(sub)
    sub.add_argument("--latents", default="", help="also write it, of such a model, to this file")
    sub = command("to-diffusers", to_diffusers, _SOURCE, ("output", "the folder to write"))
    _step_option(sub)
    sub.add_argument("--scaling-factor", type=float, default=1.0, help="of latents in pipelines")
    command("lpips", lpips, ("weights", "vgg16.pth,vgg.pth"), ("output", "the file to write"))
    text = "pytorch-fid's or torch-fidelity's .pth, or clean-fid's inception-2015-12-05.pt"
    command("inception", inception, ("weights", text), ("output", "the file to write"))


def main(argv: list[str] | None = None) -> None:
    """Runs one command and prints what it wrote."""
    arguments = vars(parser().parse_args(expand_home(sys.argv[1:] if argv is None else argv)))
    cli.start_logging()
    with cli.exit_on_error():
        print(arguments.pop("run")(**arguments))


if __name__ == "__main__":
    main()
