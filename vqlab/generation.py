"""A trained generator for use: labels in, images out as NumPy, or a pure function."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab import models
from vqlab.models.codec import Weights
from vqlab.models.generator import Generator, check_labels, draw_images, in_use
from vqlab.models.generator_sampling import GeneratorSampling
from vqlab.models.inputs import check_indices, check_pixels, check_real
from vqlab.ops.counts import MAX_SEED, check_count, check_seed


class LoadedGenerator:
    """Draws images of classes, and completes codes whose beginning is given.

    Made by `vqlab.load`. Its methods are for NumPy, and jitted once for each number of images;
    another guidance scale, temperature or cut compiles nothing, but for guidance scale 1, which is
    half the work. Inside a program of your own take `generate_fn`, which is pure.

    Attributes:
      generator: what it does and says of itself; see `vqlab.models.generator.Generator`.
      weights: all its arrays, its tokenizer's among them, on the default device.
      node: the config node of its network. module: the whole network.
      num_classes, num_positions, image_size: labels are 0..num_classes-1; tokens that are drawn one
        after the other; side in pixels.
    """

    def __init__(
        self, node: Mapping[str, Any], weights: Weights, sampling: Mapping[str, Any] | None = None
    ):
        self.node = node
        self.module = models.build(node)
        self.generator: Generator = in_use(self.module, sampling)
        self.weights: Weights = jax.device_put(Weights(*weights))
        self.num_classes = self.generator.num_classes
        self.num_positions = self.generator.num_positions
        self.image_size = self.generator.image_size
        self._draw = jax.jit(functools.partial(draw_images, self.generator))
        self._encode = jax.jit(self.generator.encode)

    def __repr__(self) -> str:
        sizes = ("num_classes", "num_positions", "image_size")
        text = ", ".join(f"{name}={getattr(self, name)}" for name in sizes)
        return f"<{self.generator.card().title}: {text}>"

    @property
    def subject(self) -> Generator:
        """The network in use."""
        return self.generator

    @property
    def params(self) -> Mapping[str, Any]:
        """The trained parameters."""
        return self.weights.variables["params"]

    @property
    def sampling(self) -> dict[str, Any]:
        """How it samples by default: the arguments below, and its decoder's own."""
        return self.generator.sampling.settings()

    def generate(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Images [B, H, W, 3] float32 in [-1, 1], one of each label.

        Args:
          labels: B classes; 0 for each image of a generator without classes.
          seed: 0..2**32-1.
          numbers: of the images, 0..2**32-1; None for 0..B-1. An image depends on its label, the
            seed and its number alone; up to rounding, where others are drawn beside it.
          settings: guidance_scale, guidance_schedule ("constant" or "linear"), guidance_interval,
            temperature, top_k and top_p, see `vqlab.models.token_sampling.TokenSampling`; num_steps
            and sampler of a process that draws continuous tokens. What is left out is as in
            `sampling`.

        Raises:
          ValueError: a class that there is not, a number out of range, or an unknown setting.
        """
        return self._images(labels, seed, numbers, settings)

    def complete(
        self,
        code: np.ndarray,
        num_given: int,
        labels: Sequence[int],
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """`generate`, where the first `num_given` positions of each code are those of `code`.

        Args:
          code: [B, ...] as `encode` gives it.
          num_given: 0..num_positions, in the order in which they are drawn.
          labels, seed, numbers, settings: see `generate`.

        Raises:
          ValueError: as `generate`, or a code of another kind or with more positions than trained.
        """
        code = self._check_code(np.asarray(code))
        count = check_count("num_given", num_given, 0, self.num_positions)
        return self._images(labels, seed, numbers, settings, code, count)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The code of images [B, H, W, 3], floats in [-1, 1] or uint8, by its own tokenizer."""
        images = check_pixels(np.asarray(images))
        self.module.check_images(images)
        return np.asarray(self._encode(self.weights, images))

    def generate_fn(
        self,
        weights: Weights,
        labels: jax.Array,
        seed: int | jax.Array,
        numbers: jax.Array,
        sampling: GeneratorSampling | None = None,
    ) -> jax.Array:
        """`generate` as a pure function, for your own `jit`; images are not clipped."""
        sampling = sampling or self.generator.sampling
        return draw_images(self.generator, weights, labels, seed, numbers, sampling)[1]

    def changed(self, **settings: Any) -> GeneratorSampling:
        """The sampling with some settings replaced, checked.

        Raises:
          ValueError: one is unknown or out of range.
        """
        sampling = self.generator.sampling.changed(**settings)
        self.generator.check_sampling(sampling)
        return sampling

    def _images(self, labels, seed, numbers, settings, code=None, num_given=0) -> np.ndarray:
        labels = check_labels(labels, self.num_classes)
        numbers = _check_numbers(range(len(labels)) if numbers is None else numbers, len(labels))
        sampling, seed = self.changed(**settings), np.uint32(check_seed(seed))
        if code is None:  # nothing is given of it: one program for both
            code = np.zeros((len(labels), *self._code.shape[1:]), self._code.dtype)
        if len(code) != len(labels):
            raise ValueError(f"{len(code)} codes for {len(labels)} labels")
        if not len(labels):
            return np.zeros((0, self.image_size, self.image_size, 3), np.float32)
        arrays = self.weights, labels, seed, numbers, sampling, code, num_given
        return np.clip(np.asarray(self._draw(*arrays)[1]), -1.0, 1.0)

    @functools.cached_property
    def _code(self) -> jax.ShapeDtypeStruct:
        """Of one image."""
        side = self.image_size
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return jax.eval_shape(self.generator.encode, self.weights, images)

    def _check_code(self, code: np.ndarray) -> np.ndarray:
        codec = self.generator.codec
        codec.check_code(code)
        wanted = self._code.shape[1:]
        if code.shape[1:] != wanted:
            raise ValueError(
                f"{codec.name} {code.shape} must be [B, {', '.join(map(str, wanted))}]: this "
                f"generator was trained on {self.num_positions} positions"
            )
        size = codec.codebook_size
        return check_real(codec.name, code) if size is None else check_indices(code, size)


def _check_numbers(numbers: Sequence[int], count: int) -> np.ndarray:
    numbers = [check_count("an image's number", n, 0, MAX_SEED) for n in numbers]
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers for {count} labels")
    return np.array(numbers, np.uint32)
