"""Finite scalar quantization: every channel is rounded to a few levels of its own.

Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple", section 3.1; with the options
of vector-quantize-pytorch's FSQ, whose arrays it meets.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.layers import FLOAT32
from vqlab.nn.quantized import CountingBottleneck, Kept, Quantized, flat
from vqlab.ops.counts import check_kept

EPSILON = 1e-3  # widens the range, so that the outermost levels are reached


class FSQ(CountingBottleneck):
    """Bounds each channel, rounds it, and lets gradients pass straight through the rounding.

    There is no codebook to learn and no loss: a codeword is a point of the grid of levels. A
    position has G indices in 0..K-1, K the product of the levels, whose first channel counts
    fastest. The decoder reads levels in [-1, 1], or a linear map of them.

    Collection and stats as in `CountingBottleneck`. It has no losses and draws nothing.

    levels: of each channel of a group, at least 2. num_groups: G grids side by side.
    latent_channels: C; 0 for as many as there are levels in all groups, any other number adds
    linear maps in front and behind. preserve_symmetry: levels evenly spaced over [-1, 1] for even
    counts too, rounded down. hard_clamp: clip instead of tanh, without a gradient outside.
    usage_decay: rate of `usage_ema`.
    """

    levels: Sequence[int]
    num_groups: int = 1
    latent_channels: int = 0
    preserve_symmetry: bool = False
    hard_clamp: bool = False
    usage_decay: float = 0.01

    title: ClassVar[str] = "FSQ"
    paper: ClassVar[str] = "https://arxiv.org/abs/2309.15505"

    def __post_init__(self):
        levels = tuple(self.levels)
        if not levels or min(levels) < 2:
            raise ValueError(f"levels={levels}: a channel needs at least 2")
        if self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1")
        if math.prod(levels) >= 2**31:
            raise ValueError(f"levels={levels} make {math.prod(levels)} codewords; below 2**31 fit")
        self.levels = levels
        self.latent_channels = self.latent_channels or self.num_groups * len(levels)
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """K, codewords per group."""
        return math.prod(self.levels)

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    @property
    def is_projected(self) -> bool:
        """Whether linear maps stand around the grids."""
        return self.latent_channels != self.num_groups * len(self.levels)

    @property
    def channel_groups(self) -> int:
        """G; 1 where a linear map mixes all channels anyway."""
        return 1 if self.is_projected else self.num_groups

    def setup(self):
        self.make_meters()
        if self.is_projected:
            scalars = self.num_groups * len(self.levels)
            self.project_in = nn.Dense(scalars, precision=FLOAT32)
            self.project_out = nn.Dense(self.latent_channels, precision=FLOAT32)

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Quantize `latents`; groups beyond the first `num_groups` (None: all) are zeros."""
        self.check_latents(latents)
        scalars = latents.astype(jnp.float32)
        if self.is_projected:
            scalars = self.project_in(scalars)
        scalars = scalars.reshape(*latents.shape[:-1], self.num_groups, len(self.levels))
        grid = self._round(scalars)
        indices = self._to_indices(grid)
        stats = {}
        if train:
            tokens = indices.reshape(-1, self.num_groups)
            counted = jnp.ones(tokens.shape, bool)
            stats, _ = self.count(tokens, counted, self.usage_decay, flat(keep))
        decoded = self._decode(grid, num_groups).astype(latents.dtype)
        return Quantized(decoded, indices, {}, stats, {})

    def lookup(
        self, indices: Int[Array, "*dims G"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """What the decoder reads, float32; groups beyond `num_groups` (None: all) are zeros."""
        return self._decode(self.lookup_groups(indices), num_groups)

    def lookup_groups(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims G L"]:
        """The point of each grid, in [-1, 1]."""
        self.check_indices(indices)
        steps = indices[..., None] // jnp.asarray(self._strides) % jnp.asarray(self.levels)
        return self._from_steps(steps.astype(jnp.float32))

    @property
    def _strides(self) -> tuple[int, ...]:
        """What one step of each channel adds to the index."""
        return tuple(math.prod(self.levels[:i]) for i in range(len(self.levels)))

    @property
    def _half_width(self) -> Float[Array, " L"]:
        return jnp.asarray(self.levels, jnp.float32) // 2

    def _round(self, x: Float[Array, "*dims L"]) -> Float[Array, "*dims L"]:
        """The nearest grid point, in [-1, 1], with the gradient of the bounded value."""
        levels = jnp.asarray(self.levels, jnp.float32)
        bound = (lambda z: jnp.clip(z, -1.0, 1.0)) if self.hard_clamp else jnp.tanh
        if self.preserve_symmetry:
            bounded = (levels - 1) * (bound(x) + 1) / 2 + 0.5
            return _straight_through(jnp.floor, bounded) * (2 / (levels - 1)) - 1
        half = (levels - 1) * (1 + EPSILON) / 2
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0)
        shift = offset / half if self.hard_clamp else jnp.arctanh(offset / half)
        bounded = bound(x + shift) * half - offset
        return _straight_through(jnp.round, bounded) / self._half_width

    def _to_indices(self, grid: Float[Array, "*dims G L"]) -> Int[Array, "*dims G"]:
        steps = jax.lax.stop_gradient(grid)
        if self.preserve_symmetry:
            steps = (steps + 1) * (jnp.asarray(self.levels, jnp.float32) - 1) / 2
        else:
            steps = steps * self._half_width + self._half_width
        steps = jnp.round(steps).astype(jnp.int32)
        return jnp.sum(steps * jnp.asarray(self._strides, jnp.int32), -1)

    def _from_steps(self, steps: Float[Array, "*dims G L"]) -> Float[Array, "*dims G L"]:
        """Undoes the first half of `_to_indices`."""
        if self.preserve_symmetry:
            return steps * (2 / (jnp.asarray(self.levels, jnp.float32) - 1)) - 1
        return (steps - self._half_width) / self._half_width

    def _decode(self, grid: Float[Array, "*dims G L"], num_groups: Kept):
        used = check_kept("num_groups", num_groups, self.num_groups)
        grid = jnp.where(jnp.arange(self.num_groups)[:, None] < used, grid, 0.0)
        scalars = grid.reshape(*grid.shape[:-2], -1)
        return self.project_out(scalars) if self.is_projected else scalars


def _straight_through(rounding, x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    return x + jax.lax.stop_gradient(rounding(x) - x)
