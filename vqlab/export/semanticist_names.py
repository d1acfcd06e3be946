"""vqlab's paths <-> the tensor names and layouts of the released Semanticist.

A path is "collection/module/.../leaf", as in "params/decoder/blocks/mlp/fc1/kernel". Blocks are
stacked here and numbered there: in the name of such a leaf, "{}" stands for the number, and shapes
and layouts below are those of one block.
"""

import logging
import re
from collections.abc import Iterable, Mapping

import numpy as np

from vqlab.ops.position import sincos_table

log = logging.getLogger("vqlab")

# Path of a module -> official module.
MODULES = {
    "encoder/patch_embed": "encoder.patch_embed.proj",
    "encoder/blocks/norm1": "encoder.blocks.{}.norm1",
    "encoder/blocks/norm2": "encoder.blocks.{}.norm2",
    "encoder/norm": "encoder.norm",
    "encoder/to_concepts": "encoder2slot",
    "decoder/patch_embed": "dit.x_embedder.proj",
    "decoder/time_fc1": "dit.t_embedder.mlp.0",
    "decoder/time_fc2": "dit.t_embedder.mlp.2",
    "decoder/concept_embed": "dit.autoenc_cond_embedder",
    "decoder/modulation": "dit.blocks.{}.adaLN_modulation.1",
    "decoder/final_modulation": "dit.final_layer.adaLN_modulation.1",
    "decoder/final_linear": "dit.final_layer.linear",
    "decoder/repa_fc1": "dit.projector.0",
    "decoder/repa_fc2": "dit.projector.2",
    "decoder/repa_fc3": "dit.projector.4",
}
for _network, _official in (("encoder", "encoder"), ("decoder", "dit")):
    for _module in ("attention/qkv", "attention/proj", "mlp/fc1", "mlp/fc2"):
        _name = _module.replace("attention", "attn").replace("/", ".")
        MODULES[f"{_network}/blocks/{_module}"] = f"{_official}.blocks.{{}}.{_name}"

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

POSITION_TABLE = "constants/decoder/position_table"
# Tables of tokens, which the released code stores with a batch axis of 1.
TABLES = {
    "params/encoder/cls_token": "encoder.cls_token",
    "params/encoder/concept_tokens": "encoder.slot_embed",
    "params/encoder/position_embed": "encoder.pos_embed",
    "params/decoder/null_concepts": "dit.null_cond",
    POSITION_TABLE: "dit.pos_embed",
}

# What a whole checkpoint holds besides: frozen networks, and a constant of the nested sampler.
FOREIGN = re.compile(r"(vae|repa_encoder|repa_model)\..+|nested_sampler\.arange")
PROJECTOR = "dit.projector."


def is_semanticist(paths: Iterable[str]) -> bool:
    """Whether the paths are those of a `Semanticist`, or of its encoder or decoder in its place."""
    return any(path in TABLES for path in paths)


def official_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> official tensor name, with "{}" for the number of a block, one to one.

    Raises ValueError for a path that the released model has no tensor for.
    """
    return {path: TABLES.get(path) or _name(path) for path in paths}


def _name(path: str) -> str:
    collection, _, rest = path.partition("/")
    module, _, leaf = rest.rpartition("/")
    if collection != "params" or module not in MODULES or leaf not in LEAVES:
        raise ValueError(f"the released Semanticist has no tensor for {path!r}")
    return f"{MODULES[module]}.{LEAVES[leaf]}"


def fitted_state(
    state: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`state` without what the model at the paths of `leaves` never holds, and with its constants.

    Left out are the frozen networks of a whole checkpoint and, with a logged line, the projector
    for REPA where the model has none: it only serves training. Checkpoints of averaged weights hold
    trained parameters only, so a missing table of positions is the fixed one.
    """
    state = {name: array for name, array in state.items() if not FOREIGN.fullmatch(name)}
    if "params/decoder/repa_fc1/kernel" not in leaves:
        projector = [name for name in state if name.startswith(PROJECTOR)]
        if projector:
            log.info("left out, as the model has repa_dim=0: %s", ", ".join(projector))
        state = {name: array for name, array in state.items() if name not in projector}
    if POSITION_TABLE in leaves:
        num_patches, width = leaves[POSITION_TABLE].shape
        side = round(num_patches**0.5)
        state.setdefault(TABLES[POSITION_TABLE], sincos_table(side, side, width)[None])
    return state


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the tensor at `path` has in the released state dict."""
    if path in TABLES:
        return (1, 1, *shape) if len(shape) == 1 else (1, *shape)
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return tuple(reversed(shape))


def to_official(path: str, array: np.ndarray) -> np.ndarray:
    """The array at `path` in the official layout: [p,p,I,O] -> [O,I,p,p] and [I,O] -> [O,I]."""
    array = np.asarray(array)
    if path in TABLES:
        return array.reshape(official_shape(path, array.shape))
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1).copy()
    return array.T.copy()


def from_official(path: str, array: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An official tensor as the array of `shape` and `dtype` at `path`; undoes `to_official`."""
    if path not in TABLES:
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.array(array.reshape(shape), dtype=dtype, order="C")
