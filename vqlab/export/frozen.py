"""Networks that are never trained: which there are, whose files they come from, what is said when a
file is missing.

Who takes one says so: an objective by `needs`, an evaluator by `uses`, a network by `frozen_parts`.
A new one is a line in `NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqlab.export import hub, official, package
from vqlab.export.dinov2_weights import read_dinov2
from vqlab.export.fingerprint import fingerprint
from vqlab.export.inception_weights import read_inception
from vqlab.export.kl_weights import read_kl
from vqlab.export.lpips_weights import read_lpips
from vqlab.export.state_dicts import names_file
from vqlab.models.pretrained import inception, lpips
from vqlab.models.pretrained.dinov2 import repa_teacher


class Network(NamedTuple):
    """A kind of frozen network.

    Attributes:
      setting: of the config, with the file or files of its weights; "" where there are none.
      read: (file, module) -> variables. The module is the part of the model, None where the network
        is always the same.
      shapes: module -> the shapes of `read`.
      missing: what to say when it is needed and no file is given.
      title: the network in words.
      path: where its node lies in that of the model, () where it is always the same.
      is_whole: whether it is a whole network of a workdir or an exported folder, which brings the
        frozen networks that it takes itself. `read` is given the folder's content then.
    """

    setting: str
    read: Callable[[Any, nn.Module | None], Any]
    shapes: Callable[[nn.Module | None], Any]
    missing: str
    title: str
    path: tuple[str, ...] = ()
    is_whole: bool = False


def _float32(shapes: Any) -> Any:
    """A tree with a shape tuple at each leaf as shapes of float32 arrays."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def _read_autoencoder(path: str, module: nn.Module) -> dict[str, Any]:
    """Variables of a KL autoencoder from a published file, or of a folder that was exported."""
    if not names_file(path):
        path = hub.resolve(path)
    if not package.is_package(path):
        return {"params": read_kl(path, module)}
    variables = package.load_package(path).weights.variables
    package.check_variables(module, variables, str(path))
    return dict(variables)


def _read_pixel_tokenizer(path: str, module: nn.Module) -> dict[str, Any]:
    """Variables of TiTok's pixel tokenizer from the released file, or one written by vqlab."""
    return official.read_variables(path, package.abstract_variables(module))


def _tokenizer_variables(content: package.Package, module: nn.Module) -> dict[str, Any]:
    """Those of a tokenizer that was read, as the generator's config describes it."""
    package.check_variables(module, content.weights.variables, "the tokenizer")
    return dict(content.weights.variables)


def _read_folder(path: str) -> package.Package:
    """What an exported folder holds, also one on the Hub."""
    return package.load_package(hub.resolve(path))


def _dinov2_shapes(module: None) -> Any:
    network = repa_teacher()
    side = network.resolution
    images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return jax.eval_shape(network.init, jax.random.key(0), images)


NETWORKS = {
    "lpips": Network(
        setting="objective.lpips_weights",
        read=lambda path, module: read_lpips(path),
        shapes=lambda module: _float32(lpips.param_shapes()),
        missing=(
            "objective.lpips_weight is not 0, which needs the weights of VGG-16 and of LPIPS: set "
            "--config.objective.lpips_weights=vgg16.pth,vgg.pth (torchvision's vgg16 and the "
            "lpips package's vgg.pth), or --config.objective.lpips_weight=0.0"
        ),
        title="LPIPS",
    ),
    "latent_space": Network(
        setting="objective.latent_weights",
        read=_read_autoencoder,
        shapes=package.abstract_variables,
        missing=(
            "the latent space needs its autoencoder: set --config.objective.latent_weights to "
            "MAR's kl16.ckpt, a diffusers AutoencoderKL file, or a folder exported by vqlab, here "
            "or as user/name on the Hugging Face Hub"
        ),
        title="autoencoder",
        path=("latent_space", "autoencoder"),
    ),
    "pixel_tokenizer": Network(
        setting="objective.pixel_tokenizer_weights",
        read=_read_pixel_tokenizer,
        shapes=package.abstract_variables,
        missing=(
            "TiTok's first stage learns the codes of MaskGIT's VQGAN: set "
            "--config.objective.pixel_tokenizer_weights=maskgit-vqgan-imagenet-f16-256.bin "
            "(of fun-research/TiTok on the Hugging Face Hub), or train on pixels alone, the "
            "config's option `pixels`"
        ),
        title="pixel tokenizer",
        path=("pixel_tokenizer", "network"),
    ),
    "repa": Network(
        setting="objective.repa_weights",
        read=lambda path, module: read_dinov2(path, repa_teacher()),
        shapes=_dinov2_shapes,
        missing=(
            "REPA needs the weights of DINOv2: set --config.objective.repa_weights="
            "dinov2_vitb14_pretrain.pth, or leave out the config's option `repa`"
        ),
        title="DINOv2",
    ),
    "inception": Network(
        setting="inception_weights",
        read=lambda path, module: read_inception(path),
        shapes=lambda module: _float32(inception.param_shapes()),
        missing=(
            "FID and its kin need the weights of Inception: give --inception_weights="
            "pt_inception-2015-12-05-6726825d.pth (pytorch-fid's), torch-fidelity's "
            "weights-inception-2015-12-05-6726825d.pth or clean-fid's inception-2015-12-05.pt"
        ),
        title="Inception",
    ),
    "tokenizer": Network(
        setting="objective.tokenizer",
        read=_tokenizer_variables,
        shapes=package.abstract_variables,
        missing=(
            "a generator needs the tokenizer whose codes it makes: set "
            "--config.objective.tokenizer to the workdir of a run or to a folder exported by "
            "vqlab, here or as user/name on the Hugging Face Hub"
        ),
        title="tokenizer",
        path=("tokenizer",),
        is_whole=True,
    ),
}
# Settings of a config that name files, and are no argument of what stands beside them.
SETTINGS = tuple(network.setting for network in NETWORKS.values())


def read_networks(
    files: Mapping[str, str],
    parts: Mapping[str, nn.Module],
    *,
    needed: Iterable[str],
    used: Iterable[str] = (),
    read_whole: Callable[[str], package.Package] = _read_folder,
) -> dict[str, Any]:
    """{name: variables} of the frozen networks of a run.

    Args:
      files: name -> file, "" where none is given.
      parts: `frozen_parts` of the model.
      needed: what the run cannot do without.
      used: what it takes where it is given.
      read_whole: what reads the folder of a whole network.

    Raises:
      ValueError: one that is needed has no file, or a file cannot be read or does not fit.
    """
    needed = list(dict.fromkeys(needed))
    wanted = [name for name in dict.fromkeys([*needed, *used]) if files[name]]
    wholes = {name: read_whole(files[name]) for name in wanted if NETWORKS[name].is_whole}
    brought = {
        name: variables
        for whole in wholes.values()
        for name, variables in whole.weights.frozen.items()
        if name in parts
    }
    if missing := [name for name in needed if name not in {*wanted, *brought}]:
        raise ValueError(NETWORKS[missing[0]].missing)
    read = {
        name: NETWORKS[name].read(wholes.get(name, files[name]), parts.get(name)) for name in wanted
    }
    return brought | read


def network_shapes(names: Iterable[str], parts: Mapping[str, nn.Module]) -> dict[str, Any]:
    """{name: shapes of the variables}; no file is read."""
    return {name: NETWORKS[name].shapes(parts.get(name)) for name in names}


def network_fingerprint(name: str, model: Mapping[str, Any], variables: Any) -> tuple[str, str]:
    """(fingerprint of its settings and weights, the network in words); `model` is a node."""
    network = NETWORKS[name]
    node = model
    for step in network.path:
        node = node[step]
    return fingerprint(node if network.path else {"name": network.title.lower()}, variables), (
        network.title
    )
