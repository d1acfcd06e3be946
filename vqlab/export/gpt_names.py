"""vqlab's paths <-> the tensor names and layouts of both papers' released second stages.

MGVQ's applications/autoregressive and Semanticist's stage2 (gpt.py, diffloss.py), which share
LlamaGen's names. Blocks are stacked here and numbered there: in the name of such a leaf, "{}"
stands for the number, and shapes and layouts below are those of one block.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

# Path of a module -> official module, first full match wins.
MODULE_RULES = (
    (r"projector/fc1", "img_projector.0"),
    (r"projector/fc2", "img_projector.2"),
    (r"projector/norm", "img_projector.3"),
    (r"BLOCKS/norm1", r"\1.{}.attention_norm"),
    (r"BLOCKS/norm2", r"\1.{}.ffn_norm"),
    (r"BLOCKS/attention/qkv", r"\1.{}.attention.wqkv"),
    (r"head/blocks/attention/proj", "head/blocks.{}.attention.proj"),
    (r"blocks/attention/proj", "blocks.{}.attention.wo"),
    (r"BLOCKS/attention/([qk]_norm)", r"\1.{}.attention.\2"),
    (r"BLOCKS/mlp/(w[123])", r"\1.{}.feed_forward.\2"),
    (r"norm", "norm"),
    (r"head/norm", "ar_head.ln_f"),
    (r"head/output", "ar_head.head"),
    (r"concept_embed", "z_proj"),
    (r"norm_in", "z_proj_ln"),
    (r"head/time_fc1", "diffloss.net.time_embed.mlp.0"),
    (r"head/time_fc2", "diffloss.net.time_embed.mlp.2"),
    (r"head/condition_embed", "diffloss.net.cond_embed"),
    (r"head/token_embed", "diffloss.net.input_proj"),
    (r"head/block(\d+)/norm", r"diffloss.net.res_blocks.\1.in_ln"),
    (r"head/block(\d+)/modulation", r"diffloss.net.res_blocks.\1.adaLN_modulation.1"),
    (r"head/block(\d+)/fc1", r"diffloss.net.res_blocks.\1.mlp.0"),
    (r"head/block(\d+)/fc2", r"diffloss.net.res_blocks.\1.mlp.2"),
    (r"head/modulation", "diffloss.net.final_layer.adaLN_modulation.1"),
    (r"head/final_linear", "diffloss.net.final_layer.linear"),
)
BLOCKS = "(blocks|head/blocks)"
OFFICIAL_BLOCKS = {"head/blocks": "ar_head.causal_space_blocks", "blocks": "layers"}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

CLASSES = "params/class_embed/embedding"
# Tables, which are no kernels: they keep their layout.
TABLES = {
    CLASSES: "cls_embedding.embedding_table.weight",
    "params/head/index_embed": "ar_head.tok_emb.weight",
}
# Those that the released code stores with a batch axis of 1, and a single token also with another.
BATCHED = {
    "params/head/position_embed": "ar_head.pos_emb",
    "params/head/start": "ar_head.sos_emb_for_image",
    "params/position_embed": "pos_embed_learned",
    "params/condition_embed": "diffusion_pos_embed_learned",
}

# The head of MGVQ has three projections where LlamaGen has one, and a modulation that nothing uses.
SEPARATE = re.compile(r"(ar_head\.causal_space_blocks\.\d+\.attention)\.query\.weight")
PARTS = ("query", "key", "value")
JOINED = re.compile(r"(ar_head\.causal_space_blocks\.\d+\.attention)\.wqkv\.weight")
UNUSED = re.compile(r"ar_head\.causal_space_blocks\.\d+\.adaLN_modulation\.1\.weight")


def is_second_stage(paths: Iterable[str]) -> bool:
    """Whether the paths are those of an `IndexTransformer` or a `ConceptTransformer`."""
    return CLASSES in paths


def official_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> official tensor name, with "{}" for the number of a block, one to one.

    Raises ValueError for a path that the released models have no tensor for.
    """
    return {path: TABLES.get(path) or BATCHED.get(path) or _name(path) for path in paths}


def _name(path: str) -> str:
    _, _, rest = path.partition("/")
    module, _, leaf = rest.rpartition("/")
    for pattern, template in MODULE_RULES:
        match = re.fullmatch(pattern.replace("BLOCKS", BLOCKS), module)
        if match and leaf in LEAVES:
            name = match.expand(template)
            for ours, theirs in OFFICIAL_BLOCKS.items():
                name = re.sub(rf"^{ours}\.", f"{theirs}.", name)
            return f"{name}.{LEAVES[leaf]}"
    raise ValueError(f"the released second stages have no tensor for {path!r}")


def fitted_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`state` with one projection in MGVQ's head, without the modulation that nothing uses."""
    state = {name: array for name, array in state.items() if not UNUSED.fullmatch(name)}
    for match in list(filter(None, map(SEPARATE.fullmatch, state))):
        names = [f"{match[1]}.{part}.weight" for part in PARTS]
        if all(name in state for name in names):
            arrays = [state.pop(name) for name in names]
            state[f"{match[1]}.wqkv.weight"] = np.concatenate(arrays)
    return state


def released_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undoes `fitted_state`; the modulation that nothing uses becomes zeros."""
    released = {}
    for name, array in state.items():
        if (match := JOINED.fullmatch(name)) is None:
            released[name] = array
            continue
        for part, rows in zip(PARTS, np.split(array, 3), strict=True):
            released[f"{match[1]}.{part}.weight"] = rows
        block, width = match[1].rpartition(".")[0], array.shape[1]
        unused = np.zeros((6 * width, 3 * width), array.dtype)
        released[f"{block}.adaLN_modulation.1.weight"] = unused
    return released


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the tensor at `path` has in the released state dict."""
    if path in BATCHED:
        return (1, 1, *shape) if len(shape) == 1 else (1, *shape)
    return tuple(shape) if path in TABLES else tuple(reversed(shape))


def to_official(path: str, array: np.ndarray) -> np.ndarray:
    """The array at `path` in the official layout: [I,O] -> [O,I], tables as they are."""
    array = np.asarray(array)
    if path in BATCHED or path in TABLES:
        return array.reshape(official_shape(path, array.shape))
    return array.T.copy()


def from_official(path: str, array: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An official tensor as the array of `shape` and `dtype` at `path`; undoes `to_official`."""
    if path not in BATCHED and path not in TABLES:
        array = array.T
    return np.array(array.reshape(shape), dtype=dtype, order="C")
