"""vqlab's paths <-> the tensor names and layouts of the released MGVQ.

A path is "collection/module/.../leaf", as in "params/encoder/stage1/block0/conv1/kernel". The
released networks (mgvq.py, efficientvit's dc_ae.py) number the operations of a stage in one list
that also holds the resampling: last in an encoder stage, first in a decoder stage. So the numbers
depend on which paths exist, and `official_names` takes all.
"""

import re
from collections.abc import Iterable

import numpy as np

# Module path -> official module, first full match wins. {op} is the place in the stage's list.
MODULE_RULES = (
    (r"encoder/project_in/conv", "encoder.project_in.conv.conv"),
    (r"encoder/project_in", "encoder.project_in.conv"),
    (r"encoder/project_out", "encoder.project_out.main.op_list.0.conv"),
    (r"decoder/project_in", "decoder.project_in.main.conv"),
    (r"decoder/norm_out", "decoder.project_out.op_list.0"),
    (r"decoder/project_out/conv", "decoder.project_out.op_list.2.conv.conv"),
    (r"decoder/project_out", "decoder.project_out.op_list.2.conv"),
    (r"(encoder|decoder)/(?:up|down)(\d+)/conv", r"\1.stages.\2.op_list.{op}.main.conv.conv"),
    (r"BLOCK/(conv[12])", r"\1.stages.\2.op_list.{op}.main.\4.conv"),
    (r"BLOCK/norm", r"\1.stages.\2.op_list.{op}.main.conv2.norm"),
    (r"BLOCK/attention/(qkv|proj)", r"\1.stages.\2.op_list.{op}.context_module.main.\4.conv"),
    (r"BLOCK/attention/norm", r"\1.stages.\2.op_list.{op}.context_module.main.proj.norm"),
    (r"BLOCK/glu/expand", r"\1.stages.\2.op_list.{op}.local_module.main.inverted_conv.conv"),
    (r"BLOCK/glu/depthwise", r"\1.stages.\2.op_list.{op}.local_module.main.depth_conv.conv"),
    (r"BLOCK/glu/project", r"\1.stages.\2.op_list.{op}.local_module.main.point_conv.conv"),
    (r"BLOCK/glu/norm", r"\1.stages.\2.op_list.{op}.local_module.main.point_conv.norm"),
    (r"(quant_conv|post_quant_conv)", r"\1"),
)
BLOCK = r"(encoder|decoder)/stage(\d+)/block(\d+)"
RESAMPLING = r"(encoder|decoder)/(?:up|down)(\d+)/"

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}
QUANTIZER = {
    "params/quantizer/codebook": "quantize.embedding.weight",
    "codebook_stats/quantizer/usage_ema": "quantize.embed_prob",
    "codebook_stats/quantizer/recent_indices": "quantize.codebook_used",
}

# Last parts of the names of buffers, which no optimizer trains and an average may lack.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "embed_prob", "codebook_used")


def official_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> official tensor name, one to one, for all paths of a tokenizer.

    Raises ValueError for a path that the released model has no tensor for.
    """
    paths = list(paths)
    depths: dict[tuple[str, str], int] = {}  # (network, stage) -> number of blocks
    for match in filter(None, (re.search(BLOCK, path) for path in paths)):
        network, stage, number = match.groups()
        depths[network, stage] = max(depths.get((network, stage), 0), int(number) + 1)
    resampled = {m.groups() for m in (re.search(RESAMPLING, path) for path in paths) if m}
    return {path: QUANTIZER.get(path) or _name(path, depths, resampled) for path in paths}


def _name(path: str, depths: dict, resampled: set) -> str:
    _, _, rest = path.partition("/")
    module, _, leaf = rest.rpartition("/")
    for pattern, template in MODULE_RULES:
        match = re.fullmatch(pattern.replace("BLOCK", BLOCK), module)
        if match and leaf in LEAVES:
            official = match.expand(template).replace("{op}", _op(match, depths, resampled))
            return f"{official}.{LEAVES[leaf]}"
    raise ValueError(f"the released MGVQ has no tensor for {path!r}")


def _op(match: re.Match, depths: dict, resampled: set) -> str:
    """Place of a block, or of the resampling, in its stage's list of operations."""
    if match.re.groups < 2:
        return ""
    network, stage, *rest = match.groups()
    is_decoder = network == "decoder"
    if match.re.groups == 2:
        return "0" if is_decoder else str(depths[network, stage])
    return str(int(rest[0]) + (is_decoder and (network, stage) in resampled))


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the tensor at `path` has in the released state dict."""
    if path.endswith("/kernel"):
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    if path.endswith("/codebook"):
        groups, size, dim = shape
        return (groups * size, dim)
    return tuple(shape)


def to_official(path: str, array: np.ndarray) -> np.ndarray:
    """The array at `path` in the official layout and dtype.

    Kernels [kh,kw,I/g,O] become [O,I/g,kh,kw], the codebook [G,K,D] becomes [G*K,D], and the empty
    places (-1) of the recent indices become 0, as the released code initialises them.
    """
    array = np.asarray(array)
    if path.endswith("/kernel"):
        return array.transpose(3, 2, 0, 1).copy()
    if path.endswith("/recent_indices"):
        return np.maximum(array, 0).astype(np.float32)
    if path.endswith("/count"):
        return array.astype(np.int64)
    return array.reshape(official_shape(path, array.shape))


def from_official(path: str, array: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An official tensor as the array of `shape` and `dtype` at `path`; undoes `to_official`."""
    if path.endswith("/kernel"):
        array = array.transpose(2, 3, 1, 0)
    return np.array(array.reshape(shape), dtype=dtype, order="C")
