"""Loads the functions of this folder: `pip install jax flatbuffers safetensors numpy` is enough."""

import functools
import pathlib

import jax
from jax import export
from safetensors.numpy import load_file


def load(folder=pathlib.Path(__file__).parent):
    """{name: function of arrays}, as README.md and functions.json describe them."""
    weights = jax.device_put(load_file(pathlib.Path(folder) / "model.safetensors"))
    functions = {}
    for file in sorted(pathlib.Path(folder).glob("*.jax_export")):
        exported = export.deserialize(bytearray(file.read_bytes()))
        functions[file.stem] = functools.partial(jax.jit(exported.call), weights)
    return functions
