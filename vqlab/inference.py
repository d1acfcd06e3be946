"""A trained network for use: NumPy in, NumPy out, or pure functions for programs of your own."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqlab import models
from vqlab.export import hub, package
from vqlab.generation import LoadedGenerator
from vqlab.models.codec import Codec, Sampling, Weights
from vqlab.models.dtypes import AS_CONFIGURED, FLOAT32, with_dtype
from vqlab.models.generator import in_use
from vqlab.models.inputs import (
    check_indices,
    check_number,
    check_numbers,
    check_pixels,
    check_real,
)
from vqlab.models.padding import pad_to_stride
from vqlab.ops.counts import check_kept, check_seed, check_whole


class Loaded:
    """Encodes images, and decodes any number of the units that their codes are made of.

    Made by `vqlab.load`. `encode` and `decode` are for NumPy, and jitted once for each shape;
    inside a program of your own take `encode_fn` and `decode_fn`, which are pure.

    Attributes:
      codec: what it does and says of itself; see `vqlab.models.codec.Codec`.
      weights: all its arrays, on the default device; what the pure functions take.
      node: the config node of its network. module: the network, unbound.
      sampling: defaults of `decode`, those that the model was evaluated with; {} where nothing is
        drawn.

    What `codec.sizes` holds are attributes too: `num_groups` (G), `codebook_size` (K) and `stride`
    of one with indices [B, h, w, G]; `latent_channels` (C) and `stride` of one with latents
    [B, h, w, C]; `num_concepts` (S), `concept_dim` (D) and `image_size` of one with concepts
    [B, S, D], and where these are codewords, [B, S, G], G and K too.
    """

    def __init__(
        self,
        node: Mapping[str, Any],
        weights: Weights,
        sampling: Mapping[str, Any] | None = None,
    ):
        self.node = node
        self.module = models.build(node)
        self.codec: Codec = self.module.codec(Sampling.of(**(sampling or {})))
        self.weights: Weights = jax.device_put(Weights(*weights))
        self._encode = jax.jit(self.codec.encode)
        self._decode = jax.jit(self.codec.decode)
        self._lookup = jax.jit(self.codec.lookup)

    def __getattr__(self, name: str) -> Any:
        sizes = self.__dict__["codec"].sizes if "codec" in self.__dict__ else {}
        if name in sizes:
            return sizes[name]
        raise AttributeError(f"a tokenizer with {self.codec.name} has no {name!r}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.codec.sizes.items())
        return f"<{self.codec.card().title} with {self.codec.name}: {sizes}>"

    @property
    def subject(self) -> Codec:
        """The network in use."""
        return self.codec

    @property
    def params(self) -> Mapping[str, Any]:
        """The trained parameters."""
        return self.weights.variables["params"]

    @property
    def variables(self) -> dict[str, Any]:
        """The network's other collections."""
        return {name: x for name, x in self.weights.variables.items() if name != "params"}

    @property
    def sampling(self) -> dict[str, Any]:
        """How it decodes by default."""
        return self.codec.sampling.settings() if self.codec.sampling else {}

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The code of images: indices [B, ..., G] int32, or latents or concepts float32.

        Args:
          images: [B, H, W, 3], floats in [-1, 1] or uint8; sides as the network takes them.

        Raises:
          ValueError: for another shape or dtype, or values outside the range.
          TypeError: inside of a JAX transformation.
        """
        _refuse_tracers(images, "encode_fn(tokenizer.weights, images)")
        images = np.asarray(images)
        self.codec.check_images(images)
        return _run(self._encode, self.weights, check_pixels(images))

    def decode(
        self,
        code: np.ndarray,
        num_kept: int | None = None,
        *,
        num_groups: int | None = None,
        num_concepts: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        num_steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Images [B, H, W, 3] float32, clipped to [-1, 1].

        Args:
          code: as `encode` gives it.
          num_kept: use only the first so many units, 0..total; None for all. The others change
            nothing. `num_groups` and `num_concepts` are the same by the name of the units.
          guidance_scale: 1 for none, 0 for images of no concept; None, as for the arguments below,
            for the default in `sampling`.
          guidance_schedule, guidance_interval: of the scale over sampling; see
            `vqlab.diffusion.guidance.Guidance`.
          num_steps: of the sampler.
          sampler: of the model's process; "" for its own.
          seed: of the noise, 0..2**32-1.

        Raises:
          ValueError: for another shape or dtype, numbers out of range or not finite, or a setting
            that the model cannot take.
          TypeError: inside of a JAX transformation.
        """
        _refuse_tracers(code, "decode_fn(tokenizer.weights, code)")
        code = np.asarray(code)
        self.codec.check_code(code)
        kept = self._num_kept(num_kept, groups=num_groups, concepts=num_concepts)
        settings = {
            "num_steps": num_steps if num_steps is None else check_whole("num_steps", num_steps),
            "guidance_scale": _number("guidance_scale", guidance_scale),
            "guidance_schedule": guidance_schedule,
            "guidance_interval": _numbers("guidance_interval", guidance_interval),
            "sampler": sampler if sampler is None else str(sampler),
        }
        sampling, key = self._sampling(settings), jax.random.key(check_seed(seed))

        def decode(weights, code):
            return self._decode(weights, code, kept, key, sampling)

        return np.clip(_run(decode, self.weights, self._as_stored(code)), -1.0, 1.0)

    def pad(self, images: np.ndarray) -> np.ndarray:
        """Images of any sides as `encode` takes them, continued by reflection below and right.

        What is decoded of them is cropped back: `decode(encode(pad(images)))[:, :H, :W]` for images
        [B, H, W, 3]. A tokenizer of one image size changes nothing.
        """
        return pad_to_stride(np.asarray(images), self.codec.sizes.get("stride", 1))

    def lookup(self, code: np.ndarray) -> np.ndarray:
        """[B, ..., C] float32: the vectors of a code, which second stages read.

        Codewords side by side for indices; latents and concepts are their own.
        """
        code = np.asarray(code)
        self.codec.check_code(code)
        return _run(self._lookup, self.weights, self._as_stored(code))

    def encode_fn(self, weights: Weights, images: jax.Array) -> jax.Array:
        """`encode` as a pure function, for your own `jit`, `vmap`, `grad` or `shard_map`.

        Images are floats in [-1, 1], whose range is not checked, or uint8; another dtype is a
        ValueError.
        """
        self.codec.check_images(images)
        return self.codec.encode(weights, images)

    def decode_fn(
        self,
        weights: Weights,
        code: jax.Array,
        num_kept: int | jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """`decode` as a pure function; `num_kept` may be traced, `key` is of the noise, if any."""
        if num_kept is None:
            num_kept = self.codec.units.total
        key = jax.random.key(0) if key is None else key
        return jnp.clip(self.codec.decode(weights, code, num_kept, key), -1.0, 1.0)

    def lookup_fn(self, weights: Weights, code: jax.Array) -> jax.Array:
        """`lookup` as a pure function."""
        return self.codec.lookup(weights, code)

    def _num_kept(self, num_kept: int | None, **by_noun: int | None) -> int:
        units = self.codec.units
        for noun, value in by_noun.items():
            if value is None:
                continue
            if noun != units.noun:
                counted = f"counts {units.noun}" if units.noun else "keeps its code whole"
                raise ValueError(f"num_{noun}={value}: this tokenizer {counted}")
            num_kept = value
        return check_kept(f"num_{units.noun or 'kept'}", num_kept, units.total)

    def _sampling(self, settings: Mapping[str, Any]) -> Sampling | None:
        given = [name for name, value in settings.items() if value is not None]
        if self.codec.sampling is None:
            if given:
                raise ValueError(f"this tokenizer draws nothing: it takes no {', '.join(given)}")
            return None
        return self.codec.sampling.changed(**settings)

    def _as_stored(self, code: np.ndarray) -> np.ndarray:
        """The code as int32 or float32."""
        size = self.codec.codebook_size
        return check_real(self.codec.name, code) if size is None else check_indices(code, size)


def read(path: str | pathlib.Path, step: int | str = "latest") -> package.Package:
    """What an exported folder, one on the Hugging Face Hub, or a run's workdir holds.

    Arguments and errors as those of `load`; the node's dtypes are the stored ones.
    """
    path = hub.resolve(path)
    if package.is_package(path):
        return package.load_package(path)
    # Only a workdir needs what training needs.
    from vqlab.runs import workdir

    return workdir.read_run(path, step)


# By what the network in use calls itself.
LOADED = {"tokenizer": Loaded, "generator": LoadedGenerator}


def load(
    path: str | pathlib.Path, step: int | str = "latest", dtype: str | None = None
) -> Loaded | LoadedGenerator:
    """The tokenizer or generator in an exported folder, or in a training run's workdir.

    Args:
      path: the folder; where there is none of this name, "user/name" or "user/name@revision" of an
        exported one on the Hugging Face Hub, see `vqlab.export.hub`.
      step: of a workdir: "latest", "best", or a number.
      dtype: what activations are computed in, "float32" or "bfloat16"; "config" for what the folder
        or the run's config says. None: what an exported folder says, and float32 of a workdir,
        whatever it trains in.

    Raises:
      ValueError: no network there, one that is cut short, or an unknown dtype.
    """
    path = hub.resolve(path)
    node, weights, sampling = read(path, step)
    if dtype is None:
        dtype = AS_CONFIGURED if package.is_package(path) else FLOAT32
    node = with_dtype(node, dtype)
    return LOADED[in_use(models.build(node)).card().noun](node, weights, sampling)


def load_only(
    noun: str, path: str | pathlib.Path, step: int | str = "latest", dtype: str | None = None
) -> Any:
    """`load` of a "tokenizer" or a "generator"; the other one is a ValueError too."""
    loaded = load(path, step, dtype)
    if (held := loaded.subject.card().noun) != noun:
        raise ValueError(f"{path} holds a {held}, and a {noun} is needed")
    return loaded


def _number(name: str, value: Any) -> float | None:
    return None if value is None else check_number(name, value)


def _numbers(name: str, values: Any) -> tuple[float, ...] | None:
    return None if values is None else check_numbers(name, values)


def _refuse_tracers(array: Any, instead: str) -> None:
    if isinstance(array, jax.core.Tracer):
        raise TypeError(f"NumPy arrays go here; inside jit and the like use tokenizer.{instead}")


def _run(function: Callable, weights: Weights, batch: np.ndarray) -> np.ndarray:
    """function(weights, batch) on the host; of an empty batch only the shape is computed."""
    if len(batch):
        return np.asarray(function(weights, jnp.asarray(batch)))
    one = jax.ShapeDtypeStruct((1, *batch.shape[1:]), batch.dtype)
    made = jax.eval_shape(function, weights, one)
    return np.zeros((0, *made.shape[1:]), made.dtype)
