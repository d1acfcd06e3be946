"""What of a network in use becomes programs: functions of flat weights and arrays, and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jax import numpy as jnp

from vqlab.models.codec import Codec, Weights
from vqlab.models.generator import NUMBERS_PER_CLASS, Generator, draw_images
from vqlab.ops.counts import check_count

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


# Settings of `TokenSampling` as arguments, by its names: those of guidance, and those that cut.
_GUIDANCE = (
    Argument("guidance_scale", (), "float32", "1: the conditional model, 0: the unconditional one"),
    Argument("guidance_interval", (), "int32", "guidance ends so many positions on; -1: never"),
    Argument("is_linear", (), "bool", "guidance grows from 1 at the first position to the scale"),
)
_TEMPERATURE = Argument("temperature", (), "float32", "0: the likeliest, 1: as trained")
_CUTS = (
    Argument("top_k", (), "int32", "only so many of the likeliest indices; 0: all"),
    Argument("top_p", (), "float32", "only the likeliest indices of so much probability; 1: all"),
)


def codec_functions(codec: Codec, weights: Weights, image_size: int = 0) -> dict[str, Function]:
    """`encode` of uint8 images, `encode_floats` and `decode` of a tokenizer.

    `decode` takes `num_kept` where there are units to count, and `seed` where there is noise.

    Args:
      codec: of the tokenizer.
      weights: its arrays, or their shapes.
      image_size: side of the images in pixels, which programs do not leave open; 0: the only one
        that the tokenizer takes, or 256.

    Raises:
      ValueError: images of this size cannot be encoded.
    """
    check_count("image_size", image_size, 0)
    size = image_size or codec.sizes.get("image_size", IMAGE_SIZE)
    return _of_codec(codec, weights, _nesting(weights), size)


def generator_functions(
    generator: Generator, weights: Weights, image_size: int = 0
) -> dict[str, Function]:
    """`generate` of a second stage, and those of its tokenizer's `codec_functions`.

    `generate` takes labels, a seed, numbers of the images and the settings of the generator's
    `TokenSampling` that matter to it; numbers of steps and samplers are the generator's own.

    Args:
      generator: of the second stage.
      weights: its arrays, the tokenizer's among them, or their shapes.
      image_size: as the generator's, or 0.

    Raises:
      ValueError: another image size.
    """
    size = check_count("image_size", image_size, 0) or generator.image_size
    generator.check_image_size(size, "image_size")
    nested, pick = _nesting(weights), generator.module.tokenizer_weights
    functions = _of_codec(
        generator.codec, pick(weights.frozen), lambda flat: pick(nested(flat).frozen), size
    )
    return functions | {"generate": _generate(generator, nested)}


# By what is exported, see `Card`.
FUNCTIONS = {"tokenizer": codec_functions, "generator": generator_functions}


def _of_codec(
    codec: Codec, weights: Weights, nested: Callable[[Mapping], Weights], image_size: int
) -> dict[str, Function]:
    """`nested` gives the codec's weights of the flat ones."""
    codec.check_image_size(image_size, "image_size")

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


def _generate(generator: Generator, nested: Callable[[Mapping], Weights]) -> Function:
    """Guided where there are classes: scale 1 is then as good, and costs the unconditional half."""
    classes, tokens = generator.num_classes, generator.sampling.tokens
    settings = (
        *(_GUIDANCE if classes else ()),
        _TEMPERATURE,
        *(_CUTS if generator.codec.codebook_size else ()),
    )
    names = [setting.name for setting in settings]
    known = f"0..{classes - 1}" if classes else "0, for there are none"
    arguments = (
        Argument("labels", (ANY_BATCH,), "int32", f"classes: {known}"),
        Argument("seed", (), "int32", "of all images: 0..2147483647"),
        Argument(
            "numbers",
            (ANY_BATCH,),
            "uint32",
            "of the images, by which they differ; image n "
            f"of class c is {NUMBERS_PER_CLASS} c + n where many are drawn",
        ),
    )

    def generate(flat, labels, seed, numbers, *given):
        chosen = dict(zip(names, given, strict=True)) | {"is_guided": bool(classes)}
        changed = dataclasses.replace(tokens, **chosen)
        sampling = dataclasses.replace(generator.sampling, tokens=changed)
        images = draw_images(generator, nested(flat), labels, seed, numbers, sampling)[1]
        return jnp.clip(images, -1, 1)

    values = ", ".join(str(getattr(tokens, name)) for name in names)
    usage = (
        f"labels = np.array([0, {max(classes - 1, 0)}], np.int32)\n"
        "numbers = np.arange(2, dtype=np.uint32)\n"
        f'drawn = functions["generate"](labels, 0, numbers, {values})'
    )
    return Function(generate, (*arguments, *settings), "images in [-1, 1]", usage)


def _nesting(weights: Weights) -> Callable[[Mapping[str, Any]], Weights]:
    """What inverts `flatten` for weights of this structure."""
    frozen = tuple(weights.frozen)

    def nested(flat: Mapping[str, Any]) -> Weights:
        tree = traverse_util.unflatten_dict(dict(flat), sep="/")
        return Weights(tree, {name: tree.pop(name, {}) for name in frozen})

    return nested


def _concrete(argument: Argument) -> jax.ShapeDtypeStruct:
    """Its shape with a batch of one."""
    shape = (1 if size == ANY_BATCH else size for size in argument.shape)
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(argument.dtype))
