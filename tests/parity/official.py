"""The released code's configs and layouts, as stored in the array files, in vqlab's terms."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from tests.parity.report import Unsupported
from vqlab.export.torch_weights import from_torch_state
from vqlab.models import build
from vqlab.models.tokenizer import Tokenizer

BLOCKS = {"ResBlock": "res", "EViT_GLU": "evit_glu"}
NORMS = {"bn2d": "batch_norm", "trms2d": "rms_norm"}
# What the released classes fix and vqlab's blocks therefore do too.
FIXED = {
    "bn_eps": 1e-5,
    "bn_momentum": 0.1,
    "norm_eps": 1e-5,
    "litemla_eps": 1e-15,
    "litemla_dim": 32,
    "glumb_expand_ratio": 4,
    "in_channels": 3,
}
FIXED_ENCODER = {
    "downsample_block_type": "ConvPixelUnshuffle",
    "downsample_shortcut": "averaging",
    "out_norm": None,
    "out_act": None,
    "out_shortcut": "averaging",
}
FIXED_DECODER = {
    "upsample_block_type": "ConvPixelShuffle",
    "upsample_shortcut": "duplicating",
    "in_shortcut": "duplicating",
    "out_norm": "trms2d",
    "out_act": "relu",
}


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, config) of an array file."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    if "config" not in arrays:
        raise Unsupported("the file has no `config`")
    return arrays, json.loads(str(arrays.pop("config")))


def tokenizer_node(config: dict) -> dict:
    """The model node that a tokenizer file's config describes."""
    _check_fixed(config, FIXED)
    encoder, decoder = config["encoder"], config["decoder"]
    _check_fixed(encoder, FIXED_ENCODER)
    _check_fixed(decoder, FIXED_DECODER)
    groups, channels = config["codebook_groups"], config["latent_channels"]
    n = len(decoder["width_list"])
    return {
        "name": "tokenizer",
        "encoder": {
            "name": "conv_encoder",
            **_stages(encoder),
            "norm": NORMS[_single(encoder["norm"])],
            "act": _single(encoder["act"]),
            "latent_channels": channels,
        },
        "quantizer": {
            "name": "grouped_quantizer",
            "num_groups": groups,
            "codebook_size": config["codebook_size"] // groups,
            "latent_channels": channels,
        },
        "decoder": {
            "name": "conv_decoder",
            **_stages(decoder),
            "norms": [NORMS[norm] for norm in _per_stage(decoder["norm"], n)],
            "acts": _per_stage(decoder["act"], n),
        },
    }


def load_tokenizer(arrays: dict, config: dict) -> tuple[Tokenizer, dict]:
    """The tokenizer of a file and its variables, converted strictly from the w/ arrays."""
    model = build(tokenizer_node(config))
    side = model.stride
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    params, variables = from_torch_state(official_state(arrays), template)
    return model, jax.tree.map(jnp.asarray, {"params": params, **variables})


def official_state(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict among a file's arrays."""
    return {name[2:]: array for name, array in arrays.items() if name.startswith("w/")}


def to_nhwc(array: np.ndarray) -> np.ndarray:
    return rearrange(array, "b c h w -> b h w c")


def to_nchw(array) -> np.ndarray:
    return rearrange(np.asarray(array), "b h w c -> b c h w")


def _check_fixed(config: dict, fixed: dict) -> None:
    for name, value in fixed.items():
        if name in config and config[name] != value:
            raise Unsupported(f"{name}={config[name]!r} is not supported, only {value!r}")


def _stages(config: dict) -> dict:
    widths = config["width_list"]
    return {
        "widths": widths,
        "depths": config["depth_list"],
        "block_types": [BLOCKS[kind] for kind in _per_stage(config["block_type"], len(widths))],
    }


def _per_stage(value: str | list, n: int) -> list:
    return value if isinstance(value, list) else [value] * n


def _single(value: str | list) -> str:
    values = set(_per_stage(value, 1))
    if len(values) != 1:
        raise Unsupported(f"encoder stages with different settings {value} are not supported")
    return values.pop()
