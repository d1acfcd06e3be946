"""vqlab's paths <-> the tensor names of published KL autoencoders.

Two namings are in use for the same networks: "ldm", of LDM's model.py, which MAR's kl16.ckpt has
too, and "diffusers", of its AutoencoderKL. LDM numbers a decoder's stages from full resolution
inwards, as vqlab does; diffusers numbers them in the order in which they run.

A path is "encoder/stage1/block0/conv1/kernel", within the parameters of a tokenizer.
"""

import re
from collections.abc import Iterable

# Path of a module, or of a layer in a block -> official name; the first full match wins.
_RULES = {
    "ldm": (
        (r"(\w+)/project_(in|out)", r"\1.conv_\2"),
        (r"(\w+)/norm_out", r"\1.norm_out"),
        (r"(\w+)/middle/block0/(\w+)", r"\1.mid.block_1.\2"),
        (r"(\w+)/middle/block1/(\w+)", r"\1.mid.block_2.\2"),
        (r"(\w+)/middle/attention/(\w+)", r"\1.mid.attn_1.\2"),
        (r"encoder/stage(\d+)/block(\d+)/(\w+)", r"encoder.down.\1.block.\2.\3"),
        (r"encoder/stage(\d+)/attention(\d+)/(\w+)", r"encoder.down.\1.attn.\2.\3"),
        (r"encoder/stage(\d+)/down/conv", r"encoder.down.\1.downsample.conv"),
        (r"decoder/stage(\d+)/block(\d+)/(\w+)", r"decoder.up.\1.block.\2.\3"),
        (r"decoder/stage(\d+)/attention(\d+)/(\w+)", r"decoder.up.\1.attn.\2.\3"),
        (r"decoder/stage(\d+)/up/conv", r"decoder.up.\1.upsample.conv"),
        (r"((?:post_)?quant_conv)", r"\1"),
    ),
    "diffusers": (
        (r"(\w+)/project_(in|out)", r"\1.conv_\2"),
        (r"(\w+)/norm_out", r"\1.conv_norm_out"),
        (r"(\w+)/middle/block(\d)/(\w+)", r"\1.mid_block.resnets.\2.\3"),
        (r"(\w+)/middle/attention/(\w+)", r"\1.mid_block.attentions.0.\2"),
        (r"encoder/stage(\d+)/block(\d+)/(\w+)", r"encoder.down_blocks.\1.resnets.\2.\3"),
        (r"encoder/stage(\d+)/attention(\d+)/(\w+)", r"encoder.down_blocks.\1.attentions.\2.\3"),
        (r"encoder/stage(\d+)/down/conv", r"encoder.down_blocks.\1.downsamplers.0.conv"),
        (r"decoder/stage(\d+)/block(\d+)/(\w+)", r"decoder.up_blocks.\1.resnets.\2.\3"),
        (r"decoder/stage(\d+)/attention(\d+)/(\w+)", r"decoder.up_blocks.\1.attentions.\2.\3"),
        (r"decoder/stage(\d+)/up/conv", r"decoder.up_blocks.\1.upsamplers.0.conv"),
        (r"((?:post_)?quant_conv)", r"\1"),
    ),
}
# Layers of a block that go by another name, and parameters.
_LAYERS = {
    "ldm": {"shortcut": "nin_shortcut", "proj": "proj_out"},
    "diffusers": {
        "shortcut": "conv_shortcut",
        "norm": "group_norm",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "proj": "to_out.0",
    },
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

# Layers of attention before version 0.15 of diffusers.
_OLD_DIFFUSERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_kl(paths: Iterable[str]) -> bool:
    """Whether the paths are those of the variables of such a network."""
    return any(path.startswith("params/encoder/middle/attention/") for path in paths)


def detect_naming(names: Iterable[str]) -> str:
    """The naming, "ldm" or "diffusers"; ValueError for names of neither."""
    for name in names:
        if name.startswith(("encoder.down.", "decoder.up.")):
            return "ldm"
        if name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")):
            return "diffusers"
    raise ValueError(
        "no KL autoencoder: neither names like encoder.down.0.block.0.conv1.weight (LDM, MAR) "
        "nor like encoder.down_blocks.0.resnets.0.conv1.weight (diffusers)"
    )


def current_name(name: str) -> str:
    """A name of an old diffusers file as diffusers writes it today; others as they are."""
    match = re.fullmatch(r"(.+\.attentions\.\d+\.)(\w+)(\.(?:weight|bias))", name)
    if match is None:
        return name
    before, layer, leaf = match.groups()
    return before + _OLD_DIFFUSERS.get(layer, layer) + leaf


def kl_names(paths: Iterable[str], naming: str) -> dict[str, str]:
    """path -> tensor name, one to one, for all paths of a KL autoencoder's parameters.

    Raises ValueError for an unknown naming, and for a path that no tensor belongs to.
    """
    if naming not in _RULES:
        raise ValueError(f"unknown naming {naming!r}; choose from {', '.join(_RULES)}")
    names = {path: _name(path, naming) for path in paths}
    if naming == "ldm":
        return names
    number = re.compile(r"(?<=^decoder\.up_blocks\.)\d+")
    last = max((int(found[0]) for found in map(number.search, names.values()) if found), default=0)
    return {
        path: number.sub(lambda found: str(last - int(found[0])), name)
        for path, name in names.items()
    }


def _name(path: str, naming: str) -> str:
    module, _, leaf = path.rpartition("/")
    for pattern, template in _RULES[naming]:
        match = re.fullmatch(pattern, module)
        if match and leaf in _LEAVES:
            block, dot, layer = match.expand(template).rpartition(".")
            layer = _LAYERS[naming].get(layer, layer)
            return f"{block}{dot}{layer}.{_LEAVES[leaf]}"
    raise ValueError(f"published KL autoencoders have no tensor for {path!r}")
