"""Moves tokenizers between runs, exported folders and MGVQ's official files.

python -m vqlab.convert export DIR OUT                               a run's weights -> a folder
python -m vqlab.convert from-official FILE OUT --config=configs/mgvq_f16.py
python -m vqlab.convert to-official DIR OUT.safetensors              official names and layouts
python -m vqlab.convert lpips vgg16.pth,vgg.pth OUT.safetensors      LPIPS in one file

DIR is a workdir or an exported folder. Files are .safetensors, .npz, or PyTorch's .pt and .pth.
"""

from __future__ import annotations

import argparse
import pathlib
import runpy

from vqlab import cli, models
from vqlab.export import lpips_weights, package, torch_weights


def model_node(config: str) -> dict:
    """The model node of a config file, given as `FILE.py` or `FILE.py:argument`."""
    path, _, argument = config.partition(":")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"no config file {path}")
    return runpy.run_path(path)["get_config"](argument).model.to_dict()


def export(source: str, output: str, step: str) -> str:
    """Writes a run's tokenizer as a folder that needs no training code to load."""
    from vqlab.workdir import load_tokenizer

    facts = {"exported from": source, "step": step}
    return str(package.save_package(output, *load_tokenizer(source, step), facts))


def from_official(weights: str, output: str, config: str) -> str:
    """Writes an official state dict as a folder; every tensor must fit, once."""
    node = model_node(config)
    state = torch_weights.read_state_dict(weights)
    template = package.abstract_variables(models.build(node))
    params, variables = torch_weights.from_torch_state(state, template)
    return str(package.save_package(output, node, params, variables, {"converted from": weights}))


def to_official(source: str, output: str, step: str) -> str:
    """Writes a tokenizer under the official names, in the official layouts."""
    from vqlab.workdir import load_tokenizer

    _, params, variables = load_tokenizer(source, step)
    torch_weights.write_state_dict(output, torch_weights.to_torch_state(params, variables))
    return output


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

    source = ("source", "a workdir or an exported folder")
    step_help = "of a workdir: latest (default), best or a number"
    command("export", export, source, ("output", "the folder to write")).add_argument(
        "--step", default="latest", help=step_help
    )
    command(
        "from-official", from_official, ("weights", "the official file"), ("output", "the folder")
    ).add_argument("--config", required=True, help="the config whose model it is, FILE.py:groups=8")
    command("to-official", to_official, source, ("output", "the file to write")).add_argument(
        "--step", default="latest", help=step_help
    )
    command("lpips", lpips, ("weights", "vgg16.pth,vgg.pth"), ("output", "the file to write"))
    return top


def main(argv: list[str] | None = None) -> None:
    """Runs one command and prints what it wrote."""
    arguments = vars(parser().parse_args(argv))
    cli.start_logging()
    with cli.exit_on_error():
        print(arguments.pop("run")(**arguments))


if __name__ == "__main__":
    main()
