"""Whole networks, and `build`, which makes them from configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vqlab.diffusion.ddpm import DDPM
from vqlab.diffusion.flow import Flow
from vqlab.models.concept_generator import ConceptGenerator
from vqlab.models.conv_autoencoder import ConvDecoder, ConvEncoder
from vqlab.models.diffusion_mlp import DiffusionMLP
from vqlab.models.discriminator import PatchDiscriminator
from vqlab.models.dit import DiT
from vqlab.models.index_generator import IndexGenerator
from vqlab.models.kl_autoencoder import KLDecoder, KLEncoder
from vqlab.models.latent_space import AutoencoderSpace, PixelSpace
from vqlab.models.pixel_decoding import FrozenPixelTokenizer, SoftPixelDecoder
from vqlab.models.pretrained.maskgit_vq import MaskGITVQ
from vqlab.models.semanticist import Semanticist
from vqlab.models.titok import TiTok
from vqlab.models.titok_transformers import TiTokDecoder, TiTokEncoder
from vqlab.models.tokenizer import Tokenizer
from vqlab.models.vit import ConceptEncoder
from vqlab.nn.bottleneck import GaussianBottleneck
from vqlab.nn.bsq import BSQ
from vqlab.nn.fsq import FSQ
from vqlab.nn.ibq import IBQ
from vqlab.nn.identity import IdentityBottleneck
from vqlab.nn.lfq import LFQ
from vqlab.nn.quantizers import GroupedQuantizer
from vqlab.nn.residual_quantizer import ResidualQuantizer
from vqlab.nn.simvq import SimVQ
from vqlab.nn.vector_quantizer import VectorQuantizer
from vqlab.registry import check_arguments, choose

# Linen modules, and the plain dataclasses that are parts of them.
MODULES: dict[str, type] = {
    "autoencoder_space": AutoencoderSpace,
    "bsq": BSQ,
    "concept_encoder": ConceptEncoder,
    "concept_generator": ConceptGenerator,
    "conv_decoder": ConvDecoder,
    "conv_encoder": ConvEncoder,
    "ddpm": DDPM,
    "diffusion_mlp": DiffusionMLP,
    "dit": DiT,
    "flow": Flow,
    "frozen_pixel_tokenizer": FrozenPixelTokenizer,
    "fsq": FSQ,
    "gaussian_bottleneck": GaussianBottleneck,
    "grouped_quantizer": GroupedQuantizer,
    "ibq": IBQ,
    "identity_bottleneck": IdentityBottleneck,
    "index_generator": IndexGenerator,
    "kl_decoder": KLDecoder,
    "kl_encoder": KLEncoder,
    "lfq": LFQ,
    "maskgit_vq": MaskGITVQ,
    "patch_discriminator": PatchDiscriminator,
    "pixel_space": PixelSpace,
    "residual_quantizer": ResidualQuantizer,
    "semanticist": Semanticist,
    "simvq": SimVQ,
    "soft_pixel_decoder": SoftPixelDecoder,
    "titok": TiTok,
    "titok_decoder": TiTokDecoder,
    "titok_encoder": TiTokEncoder,
    "tokenizer": Tokenizer,
    "vector_quantizer": VectorQuantizer,
}


def build(node: Any) -> Any:
    """The part that a config node describes: MODULES[node["name"]] with the node's other entries.

    A node is a ConfigDict or dict. Inner nodes are built first and lists become tuples, so a node
    read from JSON gives the same module. Raises ValueError for an unknown name and for unknown or
    missing arguments.
    """
    arguments = dict(node.items())
    name = arguments.pop("name", None)
    module = choose("module", name, MODULES)
    fields = [f for f in dataclasses.fields(module) if f.name not in ("name", "parent")]
    check_arguments(
        name,
        set(arguments),
        known=[field.name for field in fields],
        required=[f.name for f in fields if f.default is dataclasses.MISSING],
    )
    return module(**{key: _value(value) for key, value in arguments.items()})


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) or hasattr(value, "items"):  # ConfigDict is no Mapping
        return build(value)
    if isinstance(value, list | tuple):
        return tuple(_value(item) for item in value)
    return value
