"""What each method trains and which frozen networks it needs, from its config.

The model's name in the config says which method it is: "tokenizer" (MGVQ and other bottlenecks on
a convolutional autoencoder) or "semanticist".
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import traverse_util

from vqlab import models
from vqlab.export import package
from vqlab.export.dinov2_weights import read_dinov2
from vqlab.export.kl_weights import read_kl
from vqlab.export.lpips_weights import read_lpips
from vqlab.models.latent_space import AutoencoderSpace
from vqlab.models.pretrained import lpips
from vqlab.models.pretrained.dinov2 import DINOv2
from vqlab.models.semanticist import Semanticist
from vqlab.training.concept_objective import ConceptObjective
from vqlab.training.objectives import TokenizerObjective

FILES = ("lpips_weights", "latent_weights", "repa_weights")


def build_objective(config: ml_collections.ConfigDict):
    """The model and what it is trained for.

    Raises:
      ValueError: for a setting that cannot work.
    """
    model = models.build(config.model)
    check_image_size(model, config.image_size, "image_size")
    arguments = {name: value for name, value in config.objective.items() if name not in FILES}
    if isinstance(model, Semanticist):
        repa = repa_network() if model.decoder.repa_dim else None
        return ConceptObjective(tokenizer=model, repa=repa, **arguments)
    discriminator = None
    if config.objective.adversarial_weight:
        discriminator = models.build(config.discriminator)
    return TokenizerObjective(tokenizer=model, discriminator=discriminator, **arguments)


def repa_network() -> DINOv2:
    """ViT-B/14, whose features REPA aligns with."""
    return DINOv2(dtype="bfloat16")


def check_image_size(model, size: int, name: str) -> None:
    """Raises ValueError unless the model takes square images of `size` pixels."""
    if isinstance(model, Semanticist):
        if size != model.image_size:
            raise ValueError(f"{name}={size} is not the model's image size {model.image_size}")
    elif size % model.stride:
        raise ValueError(f"{name}={size} is no multiple of the model's stride {model.stride}")


def build_frozen(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Parameters of the networks that are never trained, by name.

    "lpips" where its weights are given; for Semanticist "latent_space", the autoencoder ({} for
    pixels), and "repa", DINOv2.

    Raises:
      ValueError: when a network is needed and no file is given, or the file does not fit.
    """
    model = models.build(config.model)
    if isinstance(model, Semanticist):
        return _semanticist_frozen(config, model)
    if config.objective.lpips_weights:
        return {"lpips": read_lpips(config.objective.lpips_weights)}
    if config.objective.lpips_weight:
        raise ValueError(
            f"objective.lpips_weight={config.objective.lpips_weight} needs the weights of VGG-16 "
            "and of LPIPS: set --config.objective.lpips_weights=vgg16.pth,vgg.pth "
            "(torchvision's vgg16 and the lpips package's vgg.pth), or set the weight to 0"
        )
    return {}


def abstract_frozen(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Shapes of the frozen networks that the train step runs; no file is read."""
    model = models.build(config.model)
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)

    def shapes(network):
        return jax.eval_shape(network.init, jax.random.key(0), images)

    if isinstance(model, Semanticist):
        space = model.latent_space
        frozen = {"latent_space": {}}
        if isinstance(space, AutoencoderSpace):
            frozen["latent_space"] = {"params": shapes(space.autoencoder)["params"]}
        return frozen | ({"repa": shapes(repa_network())} if model.decoder.repa_dim else {})
    if not config.objective.lpips_weight:
        return {}
    return {
        "lpips": jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            lpips.param_shapes(),
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
    }


def _semanticist_frozen(config: ml_collections.ConfigDict, model: Semanticist) -> dict[str, Any]:
    frozen = {"latent_space": read_latent_space(config, model.latent_space)}
    if config.objective.lpips_weights:
        frozen["lpips"] = read_lpips(config.objective.lpips_weights)
    if model.decoder.repa_dim:
        if not config.objective.repa_weights:
            raise ValueError(
                "REPA needs the weights of DINOv2: set --config.objective.repa_weights="
                "dinov2_vitb14_pretrain.pth, or leave out the config's option `repa`"
            )
        frozen["repa"] = read_dinov2(config.objective.repa_weights, repa_network())
    return frozen


def read_latent_space(config: ml_collections.ConfigDict, space) -> dict[str, Any]:
    """Variables of the autoencoder of a Semanticist's latent space; {} for pixels.

    Raises:
      ValueError: when no file is given, or the file does not fit.
    """
    if not isinstance(space, AutoencoderSpace):
        return {}
    path = config.objective.latent_weights
    if not path:
        raise ValueError(
            "the latent space needs its autoencoder: set --config.objective.latent_weights to "
            "MAR's kl16.ckpt, a diffusers AutoencoderKL file, or a folder exported by vqlab"
        )
    if not pathlib.Path(path).expanduser().is_dir():
        return {"params": read_kl(path, space.autoencoder)}
    _, params, variables = package.load_package(path)
    arrays = traverse_util.flatten_dict({"params": params, **variables}, sep="/")
    package.check_arrays(space.autoencoder, arrays, path)
    return {"params": params, **variables}
