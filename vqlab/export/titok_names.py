"""vqlab's paths <-> the tensor names and layouts of the released TiTok and its pixel tokenizer.

1d-tokenizer's titok.py and maskgit_vqgan.py; the latter's state dict is that of
maskgit-vqgan-imagenet-f16-256.bin. A path is "params/module/.../leaf". Blocks of transformers are
stacked here and numbered there: in the name of such a leaf, "{}" stands for the number, and shapes
and layouts below are those of one block. What counts the use of codewords has no tensor there.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

# Path of a module -> official module, first full match wins.
MODULE_RULES = (
    (r"encoder/patch_embed", "encoder.patch_embed"),
    (r"encoder/to_latents(?:_legacy)?", "encoder.conv_out"),
    (r"decoder/token_embed", "decoder.decoder_embed"),
    (r"decoder/head_fc1", "decoder.ffn.0"),
    (r"decoder/head_fc2", "decoder.ffn.2"),
    (r"decoder/to_patches", "decoder.ffn.0"),
    (r"(encoder|decoder)/norm_in", r"\1.ln_pre"),
    (r"(encoder|decoder)/norm_out", r"\1.ln_post"),
    (r"decoder/project_out", "decoder.conv_out"),
    (r"(encoder|decoder)/blocks/norm([12])", r"\1.transformer.{}.ln_\2"),
    (r"(encoder|decoder)/blocks/attention/qkv", r"\1.transformer.{}.attn.in_proj"),
    (r"(encoder|decoder)/blocks/attention/proj", r"\1.transformer.{}.attn.out_proj"),
    (r"(encoder|decoder)/blocks/mlp/fc1", r"\1.transformer.{}.mlp.c_fc"),
    (r"(encoder|decoder)/blocks/mlp/fc2", r"\1.transformer.{}.mlp.c_proj"),
)
# The same of the pixel tokenizer; \1 is its encoder or decoder.
PIXEL_RULES = (
    (r"(\w+)/project_(in|out)", r"\1.conv_\2"),
    (r"(\w+)/norm_out", r"\1.norm_out"),
    (r"(\w+)/middle/block(\d+)/(\w+)", r"\1.mid.\2.\3"),
    (r"(encoder)/stage(\d+)/block(\d+)/(\w+)", r"\1.down.\2.block.\3.\4"),
    (r"(decoder)/stage(\d+)/block(\d+)/(\w+)", r"\1.up.\2.block.\3.\4"),
    (r"(decoder)/stage(\d+)/up/conv", r"\1.up.\2.upsample_conv"),
)
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# The joined projection of PyTorch's attention is no module: in_proj_weight, in_proj_bias.
JOINED = ".in_proj"

LATENT_TOKENS = "params/encoder/latent_tokens"
CODEBOOK = "params/quantizer/codebook"
PIXEL_CODEBOOK = "params/codebook"  # of the pixel tokenizer by itself
TABLES = {
    LATENT_TOKENS: "latent_tokens",
    CODEBOOK: "quantize.embedding.weight",
    PIXEL_CODEBOOK: "quantize.embedding.weight",
    "params/pixel_tokenizer/codebook": "pixel_quantize.embedding.weight",
    "params/decoder/mask_token": "decoder.mask_token",
}
for _network in ("encoder", "decoder"):
    TABLES |= {
        f"params/{_network}/class_token": f"{_network}.class_embedding",
        f"params/{_network}/positions": f"{_network}.positional_embedding",
        f"params/{_network}/token_positions": f"{_network}.latent_token_positional_embedding",
    }
# Axes of length 1 in front of tables there, and here.
_AXES_THERE = {"class_token": 1, "mask_token": 2}

# Linear maps of every place, which are 1x1 convolutions there.
_POINTWISE = re.compile(r"params/(encoder/to_latents(_legacy)?|decoder/(head_fc[12]|to_patches))/")

_LEGACY_PATH, _LEGACY_TENSOR = "params/encoder/to_latents_legacy/kernel", "decoder.ffn.2.weight"
_FORMS = {
    True: "the legacy form (is_legacy: encoder features are read in memory order)",
    False: "the transposed form (is_legacy False)",
}


def is_titok(paths: Iterable[str]) -> bool:
    """Whether the paths are those of a `TiTok` or of its pixel tokenizer, a `MaskGITVQ`."""
    paths = set(paths)
    return LATENT_TOKENS in paths or PIXEL_CODEBOOK in paths


def check_form(state: Mapping[str, np.ndarray], paths: Iterable[str]) -> None:
    """Raises ValueError for weights of the other reshape, whose encoder has the same shapes.

    Released files say by the head of their decoder which one theirs is.
    """
    paths = set(paths)
    if LATENT_TOKENS not in paths or not any(name.startswith("decoder.ffn.") for name in state):
        return
    given, wanted = _LEGACY_TENSOR in state, _LEGACY_PATH in paths
    if given != wanted:
        raise ValueError(
            f"the weights are of {_FORMS[given]}, the model of {_FORMS[wanted]}: TiTok's S-128, "
            "B-64 and L-32 are legacy (the configs' stage1 and stage2), those that give pixels not"
        )


def official_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> official tensor name, with "{}" for the number of a block, one to one.

    Raises ValueError for a path that the released networks have no tensor for.
    """
    paths = list(paths)
    is_alone = LATENT_TOKENS not in paths
    return {path: TABLES.get(path) or _name(path, is_alone) for path in paths}


def _name(path: str, is_alone: bool) -> str:
    collection, _, rest = path.partition("/")
    module, _, leaf = rest.rpartition("/")
    inner = module.removeprefix("pixel_tokenizer/")
    is_pixel = is_alone or inner != module
    for pattern, template in PIXEL_RULES if is_pixel else MODULE_RULES:
        match = re.fullmatch(pattern, inner)
        if match and collection == "params" and leaf in LEAVES:
            name = match.expand(template).replace("shortcut", "nin_shortcut")
            name = f"pixel_{name}" if inner != module else name
            return f"{name}{'_' if name.endswith(JOINED) else '.'}{LEAVES[leaf]}"
    raise ValueError(f"the released TiTok has no tensor for {path!r}")


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that the tensor at `path` has in the released state dict."""
    if path == CODEBOOK:
        return tuple(shape[1:])
    if path in TABLES:
        return (1,) * _AXES_THERE.get(path.rpartition("/")[2], 0) + tuple(shape)
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    shape = tuple(reversed(shape))
    return (*shape, 1, 1) if len(shape) == 2 and _POINTWISE.match(path) else shape


def to_official(path: str, array: np.ndarray) -> np.ndarray:
    """The array at `path` in the official layout: [p,q,I,O] -> [O,I,p,q] and [I,O] -> [O,I]."""
    array = np.asarray(array)
    shape = official_shape(path, array.shape)
    if path not in TABLES:
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return np.array(array.reshape(shape), order="C")


def from_official(path: str, array: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An official tensor as the array of `shape` and `dtype` at `path`; undoes `to_official`."""
    if path not in TABLES:
        if _POINTWISE.match(path) and array.ndim == 4:
            array = array[..., 0, 0]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.array(array.reshape(shape), dtype=dtype, order="C")
