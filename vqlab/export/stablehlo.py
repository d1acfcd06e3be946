"""A model as StableHLO programs, which run without the code that made them.

NAME.jax_export    one function for any batch size and several platforms, by `jax.export`
model.safetensors  the weights, which the functions take
functions.json     names, shapes and dtypes of arguments and results
load.py            ten lines that put these together, see stablehlo_loader.py
README.md          what the functions are, and an example

The weights are no part of the programs. As constants each function would carry a copy of its own,
twice the size while it is lowered, which a compiler then tries to fold; as arguments they lie once
on the device, and a program is some hundred kilobytes. safetensors is read by every framework.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors import SafetensorError

import vqlab
from vqlab.export import stablehlo_loader
from vqlab.export.files import require_free, save_arrays
from vqlab.export.package import flatten
from vqlab.export.stablehlo_card import write_card
from vqlab.export.stablehlo_functions import ANY_BATCH, FUNCTIONS, Function
from vqlab.export.strict import check_finite
from vqlab.models.codec import Codec, Weights
from vqlab.models.generator import Generator

FORMAT = "vqlab-stablehlo-1"
PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".jax_export"
WEIGHTS_FILE, FACTS_FILE, LOADER_FILE = "model.safetensors", "functions.json", "load.py"


def save_network(
    path: str | Path,
    subject: Codec | Generator,
    weights: Weights,
    image_size: int = 0,
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes the functions of a tokenizer or a generator as a folder, see `save_stablehlo`.

    `image_size` is as in `stablehlo_functions`.
    """
    card = subject.card()
    functions = FUNCTIONS[card.noun](subject, weights, image_size)
    flat = jax.device_get(flatten(weights))
    return save_stablehlo(path, card.title, card.facts, functions, flat, platforms)


def export_function(
    function: Function, weights: Mapping[str, Any], platforms: Sequence[str] = PLATFORMS
) -> export.Exported:
    """One program for any batch size and all `platforms`; `weights` may be shapes."""
    scope = export.SymbolicScope()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(weights))
    arguments = [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(",".join(map(str, argument.shape)), scope=scope),
            np.dtype(argument.dtype),
        )
        for argument in function.arguments
    ]
    return export.export(jax.jit(function.run), platforms=platforms)(shapes, *arguments)


def save_stablehlo(
    path: str | Path,
    title: str,
    facts: Mapping[str, Any],
    functions: Mapping[str, Function],
    weights: Mapping[str, Any],
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes the folder: a new or empty one, or one that this wrote, which is replaced.

    Args:
      path: the folder.
      title: of the README.
      facts: rows of a table there.
      functions: what to export, by the names of the files.
      weights: flat, what all functions take.
      platforms: that each program is lowered for.

    Raises:
      ValueError: the folder holds something else, or cannot be written; NaN or infinite weights;
        flatbuffers is missing; an unknown platform.
    """
    path = Path(path).expanduser()
    check_output(path, platforms)
    check_finite(weights, f"{path}, not written,")
    programs = {
        name: export_function(function, weights, platforms) for name, function in functions.items()
    }
    about = _about(title, facts, functions, programs, platforms)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for old in path.glob(f"*{SUFFIX}"):
            old.unlink()
        for name, program in programs.items():
            (path / f"{name}{SUFFIX}").write_bytes(program.serialize())
        save_arrays(path / WEIGHTS_FILE, weights, {"format": "flax"})
        shutil.copyfile(stablehlo_loader.__file__, path / LOADER_FILE)
        (path / "README.md").write_text(write_card(about, ANY_BATCH, SUFFIX))
        (path / FACTS_FILE).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return path


def check_output(path: str | Path, platforms: Sequence[str] = PLATFORMS) -> None:
    """Raises ValueError where nothing could be written, before anything is loaded."""
    require_free(Path(path).expanduser(), FACTS_FILE)
    for platform in platforms:
        if platform not in KNOWN_PLATFORMS:
            raise ValueError(f"platform {platform!r} is none of {', '.join(KNOWN_PLATFORMS)}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError(
            "jax.export writes with flatbuffers, which is missing: pip install flatbuffers"
        )


def _about(title, facts, functions, programs, platforms) -> dict[str, Any]:
    """What functions.json says."""
    return {
        "format": FORMAT,
        "library_version": vqlab.__version__,
        "jax_version": importlib.metadata.version("jax"),
        "platforms": list(platforms),
        "title": title,
        "facts": dict(facts),
        "functions": {
            name: {
                "arguments": [argument._asdict() for argument in function.arguments],
                "result": _result(programs[name]) | {"text": function.text},
                "usage": function.usage,
            }
            for name, function in functions.items()
        },
    }


def _result(program: export.Exported) -> dict[str, Any]:
    (aval,) = program.out_avals
    shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
    return {"shape": shape, "dtype": aval.dtype.name}
