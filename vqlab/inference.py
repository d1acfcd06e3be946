"""A trained tokenizer for use: NumPy in, NumPy out."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab import models
from vqlab.diffusion.guidance import Guidance
from vqlab.export import package
from vqlab.inputs import (
    check_indices,
    check_number,
    check_numbers,
    check_pixels,
    check_real,
    check_seed,
)
from vqlab.models.concept_decoding import decode_concepts
from vqlab.models.dtypes import AS_CONFIGURED, FLOAT32, with_dtype
from vqlab.models.tokenizer import check_images
from vqlab.ops.counts import check_kept, check_whole


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
        encode = functools.partial(self.module.apply, method="encode")
        self._encode = jax.jit(lambda weights, images: encode(weights, images).indices)
        self._decode = jax.jit(
            functools.partial(self.module.apply, method="decode_indices"),
            static_argnames="num_groups",
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Indices [B, h, w, G] int32 of images.

        Args:
          images: [B, H, W, 3], floats in [-1, 1] or uint8; sides are multiples of `stride`.

        Raises:
          ValueError: for another shape or dtype, or values outside the range.
        """
        images = np.asarray(images)
        check_images(images, self.stride)
        return _run(self._encode, self._weights, check_pixels(images))

    def decode(self, indices: np.ndarray, num_groups: int | None = None) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1].

        Args:
          indices: [B, h, w, G] integers in 0..K-1.
          num_groups: use only the first so many groups, 0..G; None for all.

        Raises:
          ValueError: for another shape, an index out of range, or more groups than there are.
        """
        indices = check_indices(np.asarray(indices), self.codebook_size)
        num_groups = check_kept("num_groups", num_groups, self.num_groups)
        decode = functools.partial(self._decode, num_groups=num_groups)
        return np.clip(_run(decode, self._weights, indices), -1.0, 1.0)


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
        encode = functools.partial(self.module.apply, method="encode")
        self._encode = jax.jit(lambda weights, images: encode(weights, images).latents)
        self._decode = jax.jit(functools.partial(self.module.apply, method="decode"))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents [B, h, w, C] float32, the means of the posterior; images as for MGVQ."""
        images = np.asarray(images)
        check_images(images, self.stride)
        return _run(self._encode, self._weights, check_pixels(images))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1], of latents [B, h, w, C].

        Raises:
          ValueError: for another shape or dtype, or numbers that are not finite.
        """
        latents = check_real("latents", np.asarray(latents))
        return np.clip(_run(self._decode, self._weights, latents), -1.0, 1.0)


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
          ValueError: for another shape or dtype, or values outside the range.
        """
        images = np.asarray(images)
        check_images(images, self.module.encoder.patch_size)
        return _run(self._encode, self._weights[0], check_pixels(images))

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
          seed: of the noise, 0..2**32-1.

        Raises:
          ValueError: for another shape or dtype, numbers that are not finite, or a setting that
            the model cannot take.
        """
        concepts = self._check_concepts(np.asarray(concepts))
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
            check_number("guidance_scale", chosen["guidance_scale"]),
            chosen["guidance_schedule"],
            check_numbers("guidance_interval", chosen["guidance_interval"]),
        )
        decode = functools.partial(
            self._decode,
            num_kept=check_kept("num_concepts", num_concepts, self.num_concepts),
            key=jax.random.key(check_seed(seed)),
            guidance=None if guidance.is_off else guidance,
            num_steps=check_whole("num_steps", chosen["num_steps"]),
            sampler=str(chosen["sampler"]),  # a static argument; an unknown name is named
        )
        return np.clip(_run(decode, self._weights, concepts), -1.0, 1.0)

    def _sample(self, weights, concepts, *, num_kept, key, guidance, num_steps, sampler):
        return decode_concepts(
            self.module,
            *weights,
            concepts,
            key=key,
            num_kept=num_kept,
            guidance=guidance or Guidance(),
            num_steps=num_steps,
            sampler=sampler,
        )

    def _check_concepts(self, concepts: np.ndarray) -> np.ndarray:
        if concepts.ndim != 3 or concepts.shape[1:] != (self.num_concepts, self.concept_dim):
            raise ValueError(
                f"concepts {concepts.shape} must be [B, {self.num_concepts}, {self.concept_dim}]"
            )
        return check_real("concepts", concepts)


Loaded = LoadedTokenizer | LoadedAutoencoder | LoadedSemanticist


def read(path: str | pathlib.Path, step: int | str = "latest") -> tuple[dict, dict, dict, dict]:
    """(model node, params, variables, sampling) of an exported folder or a run's workdir.

    `variables` hold the frozen autoencoder of a latent space too, `sampling` how the model decodes
    by default. Arguments and errors as those of `load`; the node's dtypes are the stored ones.
    """
    path = pathlib.Path(path).expanduser()
    if package.is_package(path):
        return *package.load_package(path), package.load_sampling(path)
    # Only a workdir needs what training needs.
    from vqlab import workdir

    node, params, variables = workdir.load_tokenizer(path, step)
    variables |= workdir.load_latent_space(path)
    return node, params, variables, workdir.load_sampling(path)


def load(path: str | pathlib.Path, step: int | str = "latest", dtype: str | None = None) -> Loaded:
    """The tokenizer in an exported folder, or in a training run's workdir.

    Args:
      path: the folder.
      step: of a workdir: "latest", "best", or a number.
      dtype: what activations are computed in, "float32" or "bfloat16"; "config" for what the folder
        or the run's config says. None: what an exported folder says, and float32 of a workdir,
        whatever it trains in.

    Returns:
      What fits the model: indices, continuous latents, or concepts.

    Raises:
      ValueError: no tokenizer there, one that is cut short, or an unknown dtype.
    """
    node, params, variables, sampling = read(path, step)
    if dtype is None:
        dtype = AS_CONFIGURED if package.is_package(path) else FLOAT32
    node = with_dtype(node, dtype)
    if node["name"] == "semanticist":
        return LoadedSemanticist(node, params, variables, sampling)
    is_discrete = "codebook_size" in node["quantizer"]
    return (LoadedTokenizer if is_discrete else LoadedAutoencoder)(node, params, variables)


def _run(function: Callable, weights: Any, batch: np.ndarray) -> np.ndarray:
    """function(weights, batch) on the host; of an empty batch only the shape is computed."""
    if len(batch):
        return np.asarray(function(weights, jnp.asarray(batch)))
    one = jax.ShapeDtypeStruct((1, *batch.shape[1:]), batch.dtype)
    made = jax.eval_shape(function, weights, one)
    return np.zeros((0, *made.shape[1:]), made.dtype)
