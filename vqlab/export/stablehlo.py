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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jax import export
from jax import numpy as jnp
from safetensors import SafetensorError

import vqlab
from vqlab.export import stablehlo_loader
from vqlab.export.files import require_free, save_arrays
from vqlab.export.package import flatten
from vqlab.export.stablehlo_card import write_card
from vqlab.export.strict import check_finite
from vqlab.models.codec import Codec, Weights
from vqlab.ops.counts import check_count

FORMAT = "vqlab-stablehlo-1"
PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SUFFIX = ".jax_export"
WEIGHTS_FILE, FACTS_FILE, LOADER_FILE = "model.safetensors", "functions.json", "load.py"
ANY_BATCH = "b"
IMAGE_SIZE = 256  # where a tokenizer takes others too


class Argument(NamedTuple):
    """An array that a function takes: "b" in its shape is any batch size. text: what it is."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    text: str


class Function(NamedTuple):
    """What is exported under a name.

    run: (weights, *arguments) -> array, can be jitted; the weights are flat, array by path.
    arguments: those after the weights. text: what it gives. usage: lines of Python for the README,
    where `functions` and `np` are known.
    """

    run: Callable[..., jax.Array]
    arguments: tuple[Argument, ...]
    text: str
    usage: str = ""


def codec_functions(codec: Codec, weights: Weights, image_size: int) -> dict[str, Function]:
    """`encode` of uint8 images, `encode_floats` and `decode` of a tokenizer.

    `decode` takes `num_kept` where there are units to count, and `seed` where there is noise.

    Args:
      codec: of the tokenizer.
      weights: its arrays, or their shapes.
      image_size: side of the images in pixels, which programs do not leave open.

    Raises:
      ValueError: images of this size cannot be encoded.
    """
    codec.check_image_size(image_size, "image_size")
    nested = _nesting(weights)

    def encode(flat, images):
        return codec.encode(nested(flat), images)

    square = (ANY_BATCH, image_size, image_size, 3)
    images = Argument("images", square, "uint8", "RGB")
    floats = Argument("images", square, "float32", "RGB in [-1, 1]")
    code = jax.eval_shape(codec.encode, weights, _concrete(floats))
    code = Argument(codec.name, (ANY_BATCH, *code.shape[1:]), code.dtype.name, "the code")
    usage = (
        f"images = np.zeros({(1, *square[1:])}, np.uint8)\n"
        f'{codec.name} = functions["encode"](images)'
    )
    return {
        "encode": Function(encode, (images,), codec.name, usage),
        "encode_floats": Function(encode, (floats,), codec.name),
        "decode": _decode(codec, nested, code),
    }


def save_codec(
    path: str | Path,
    codec: Codec,
    weights: Weights,
    image_size: int = 0,
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes `codec_functions` of a tokenizer as a folder, see `save_stablehlo`.

    An `image_size` of 0 is the only one that the tokenizer takes, or 256.
    """
    check_count("image_size", image_size, 0)
    size = image_size or codec.sizes.get("image_size", IMAGE_SIZE)
    functions = codec_functions(codec, weights, size)
    card, flat = codec.card(), jax.device_get(flatten(weights))
    return save_stablehlo(path, card.title, card.facts, functions, flat, platforms)


def _decode(codec: Codec, nested: Callable[[Mapping], Weights], code: Argument) -> Function:
    units = codec.units
    arguments, defaults = [code], {}
    if units.levels:
        text = f"how many {units.noun}, the first ones, are used: 0..{units.total}"
        arguments.append(Argument("num_kept", (), "int32", text))
        defaults["num_kept"] = units.total
    if codec.sampling is not None:
        text = f"of the noise ({codec.setting}): 0..2147483647"
        arguments.append(Argument("seed", (), "int32", text))
        defaults["seed"] = 0

    def decode(flat, code, *given):
        numbers = dict(zip(defaults, given, strict=True))
        num_kept, key = numbers.get("num_kept", units.total), jax.random.key(numbers.get("seed", 0))
        return jnp.clip(codec.decode(nested(flat), code, num_kept, key), -1, 1)

    given = ", ".join(map(str, (codec.name, *defaults.values())))
    usage = f'pictures = functions["decode"]({given})'
    return Function(decode, tuple(arguments), "images in [-1, 1]", usage)


def _nesting(weights: Weights) -> Callable[[Mapping[str, Any]], Weights]:
    """What inverts `flatten` for weights of this structure."""
    frozen = tuple(weights.frozen)

    def nested(flat: Mapping[str, Any]) -> Weights:
        tree = traverse_util.unflatten_dict(dict(flat), sep="/")
        return Weights(tree, {name: tree.pop(name, {}) for name in frozen})

    return nested


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


def _concrete(argument: Argument) -> jax.ShapeDtypeStruct:
    """Its shape with a batch of one."""
    shape = (1 if size == ANY_BATCH else size for size in argument.shape)
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(argument.dtype))
