"""A trained tokenizer for use: NumPy in, NumPy out."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab import models
from vqlab.diffusion.guidance import Guidance
from vqlab.export import package
from vqlab.models.concept_decoding import decode_concepts
from vqlab.models.tokenizer import check_images
from vqlab.ops.counts import check_kept


class LoadedTokenizer:
    """Encodes images to indices and decodes any number of groups of them.

    Made by `vqlab.load`. Both methods are jitted once for each shape that they see.

    Attributes:
      num_groups: G, indices per latent position, coarse to fine.
      codebook_size: K, codewords per group; indices lie in 0..K-1.
      stride: pixels per latent position along each side.
    """

    def __init__(self, node: Mapping[str, Any], params: Mapping, variables: Mapping):
        self.node = node
        self.module = models.build(node)
        self.num_groups: int = self.module.quantizer.num_groups
        self.codebook_size: int = self.module.quantizer.codebook_size
        self.stride: int = self.module.stride
        self.params, self.variables = params, variables
        self._weights = jax.device_put({"params": params, **variables})
        self._encode = jax.jit(functools.partial(self.module.apply, method="encode"))
        self._decode = jax.jit(
            functools.partial(self.module.apply, method="decode_indices"),
            static_argnames="num_groups",
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Indices [B, h, w, G] int32 of images.

        Args:
          images: [B, H, W, 3], floats in [-1, 1] or uint8; sides are multiples of `stride`.

        Raises:
          ValueError: for another shape, or values outside the range.
        """
        images = np.asarray(images)
        check_images(images, self.stride)
        return np.asarray(self._encode(self._weights, _as_floats(images)).indices)

    def decode(self, indices: np.ndarray, num_groups: int | None = None) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1].

        Args:
          indices: [B, h, w, G] integers in 0..K-1.
          num_groups: use only the first so many groups, 0..G; None for all.

        Raises:
          ValueError: for another shape, an index out of range, or more groups than there are.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.codebook_size:
            raise ValueError(
                f"indices lie in [{indices.min()}, {indices.max()}]; "
                f"this tokenizer's lie in [0, {self.codebook_size - 1}]"
            )
        images = self._decode(self._weights, jnp.asarray(indices), num_groups=num_groups)
        return np.clip(np.asarray(images), -1.0, 1.0)


class LoadedAutoencoder:
    """Encodes images to the continuous latents of a Gaussian bottleneck, and decodes them.

    Made by `vqlab.load`.

    Attributes:
      latent_channels: C.
      stride: pixels per latent along each side.
    """

    def __init__(self, node: Mapping[str, Any], params: Mapping, variables: Mapping):
        self.node = node
        self.module = models.build(node)
        self.latent_channels: int = self.module.quantizer.latent_channels
        self.stride: int = self.module.stride
        self.params, self.variables = params, variables
        self._weights = jax.device_put({"params": params, **variables})
        self._encode = jax.jit(functools.partial(self.module.apply, method="encode"))
        self._decode = jax.jit(functools.partial(self.module.apply, method="decode"))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents [B, h, w, C] float32, the means of the posterior; images as for MGVQ."""
        images = np.asarray(images)
        check_images(images, self.stride)
        return np.asarray(self._encode(self._weights, _as_floats(images)).latents)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1], of latents [B, h, w, C].

        Raises:
          ValueError: for another shape, or numbers that are not finite.
        """
        latents = np.asarray(latents, np.float32)
        _check_finite("latents", latents)
        images = self._decode(self._weights, jnp.asarray(latents))
        return np.clip(np.asarray(images), -1.0, 1.0)


# What `decode` does where neither the caller nor the model's folder says more.
SAMPLING = {
    "guidance_scale": 1.0,
    "guidance_schedule": "constant",
    "guidance_interval": (0.0, 1.0),
    "num_steps": 25,
    "sampler": "",
}


class LoadedSemanticist:
    """Encodes images to ordered concepts and samples images from any number of them.

    Made by `vqlab.load`. Both methods are jitted once for each shape and number of steps.

    Attributes:
      num_concepts: S, concepts per image, those that explain most first.
      concept_dim: D, numbers per concept.
      image_size: side of the images that `decode` makes, in pixels.
      sampling: defaults of `decode`: those that the model was evaluated with.
    """

    def __init__(
        self,
        node: Mapping[str, Any],
        params: Mapping,
        variables: Mapping,
        sampling: Mapping[str, Any] | None = None,
    ):
        self.node = node
        self.module = models.build(node)
        self.num_concepts: int = self.module.num_concepts
        self.concept_dim: int = self.module.concept_dim
        self.image_size: int = self.module.image_size
        self.sampling = SAMPLING | dict(sampling or {})
        self.params, self.variables = params, variables
        variables = dict(variables)
        latent_variables = variables.pop("latent_space", {})
        self._weights = jax.device_put(({"params": params, **variables}, latent_variables))
        self._encode = jax.jit(functools.partial(self.module.apply, method="encode"))
        self._decode = jax.jit(self._sample, static_argnames=("num_steps", "sampler"))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Concepts [B, S, D] float32 of images.

        Args:
          images: [B, H, W, 3], floats in [-1, 1] or uint8; sides are multiples of the encoder's
            patch. Those of another size than `image_size` go through an interpolated position
            table.

        Raises:
          ValueError: for another shape, or values outside the range.
        """
        images = np.asarray(images)
        check_images(images, self.module.encoder.patch_size)
        return np.asarray(self._encode(self._weights[0], _as_floats(images)))

    def decode(
        self,
        concepts: np.ndarray,
        num_concepts: int | None = None,
        *,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        num_steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1].

        Args:
          concepts: [B, S, D].
          num_concepts: use only the first so many, 0..S; None for all. The others change nothing.
          guidance_scale: 1 for none, 0 for images of no concept; None, as for the arguments below,
            for the default in `sampling`.
          guidance_schedule, guidance_interval: of the scale over sampling; see
            `vqlab.diffusion.guidance.Guidance`.
          num_steps: of the sampler.
          sampler: of the model's process; "" for its own.
          seed: of the noise.

        Raises:
          ValueError: for another shape, numbers that are not finite, or a setting that the model
            cannot take.
        """
        concepts = np.asarray(concepts, np.float32)
        self._check_concepts(concepts)
        chosen = self.sampling | {
            name: value
            for name, value in {
                "guidance_scale": guidance_scale,
                "guidance_schedule": guidance_schedule,
                "guidance_interval": guidance_interval,
                "num_steps": num_steps,
                "sampler": sampler,
            }.items()
            if value is not None
        }
        guidance = Guidance(
            chosen["guidance_scale"], chosen["guidance_schedule"], chosen["guidance_interval"]
        )
        images = self._decode(
            *self._weights,
            jnp.asarray(concepts),
            check_kept("num_concepts", num_concepts, self.num_concepts),
            jax.random.key(seed),
            None if guidance.is_off else guidance,
            num_steps=chosen["num_steps"],
            sampler=chosen["sampler"],
        )
        return np.clip(np.asarray(images), -1.0, 1.0)

    def _sample(
        self, variables, latent_variables, concepts, num_kept, key, guidance, *, num_steps, sampler
    ):
        return decode_concepts(
            self.module,
            variables,
            latent_variables,
            concepts,
            key=key,
            num_kept=num_kept,
            guidance=guidance or Guidance(),
            num_steps=num_steps,
            sampler=sampler,
        )

    def _check_concepts(self, concepts: np.ndarray) -> None:
        if concepts.ndim != 3 or concepts.shape[1:] != (self.num_concepts, self.concept_dim):
            raise ValueError(
                f"concepts {concepts.shape} must be [B, {self.num_concepts}, {self.concept_dim}]"
            )
        _check_finite("concepts", concepts)


Loaded = LoadedTokenizer | LoadedAutoencoder | LoadedSemanticist


def read(path: str | pathlib.Path, step: int | str = "latest") -> tuple[dict, dict, dict, dict]:
    """(model node, params, variables, sampling) of an exported folder or a run's workdir.

    `variables` hold the frozen autoencoder of a latent space too, `sampling` how the model decodes
    by default. Arguments and errors as those of `load`.
    """
    if package.is_package(path):
        return *package.load_package(path), package.load_sampling(path)
    # Only a workdir needs what training needs.
    from vqlab import workdir

    node, params, variables = workdir.load_tokenizer(path, step)
    variables |= workdir.load_latent_space(path)
    return node, params, variables, workdir.load_sampling(path)


def load(path: str | pathlib.Path, step: int | str = "latest") -> Loaded:
    """The tokenizer in an exported folder, or in a training run's workdir.

    Args:
      path: the folder.
      step: of a workdir: "latest", "best", or a number.

    Returns:
      What fits the model: indices, continuous latents, or concepts.

    Raises:
      ValueError: no tokenizer there, or one that is cut short.
    """
    node, params, variables, sampling = read(path, step)
    if node["name"] == "semanticist":
        return LoadedSemanticist(node, params, variables, sampling)
    is_discrete = "codebook_size" in node["quantizer"]
    return (LoadedTokenizer if is_discrete else LoadedAutoencoder)(node, params, variables)


def _check_finite(name: str, numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} hold NaN or infinite numbers")


def _as_floats(images: np.ndarray) -> jax.Array:
    """Floats in [-1, 1] of such or of uint8."""
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 127.5 - 1.0
    low, high = float(images.min()), float(images.max())
    if not (-1.001 <= low and high <= 1.001):
        raise ValueError(f"images lie in [{low:g}, {high:g}]; give floats in [-1, 1] or uint8")
    return jnp.asarray(images, jnp.float32)
