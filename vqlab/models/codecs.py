"""The codecs: indices of any quantizer, and continuous latents."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.models.codec import Card, Units
from vqlab.models.codec_parts import (
    Continuous,
    NetworkCodec,
    check_finite,
    check_index_range,
    powers,
)
from vqlab.models.codings import Coding, Codings, Sent, mean_square, rounded
from vqlab.ops.components import keep_components
from vqlab.ops.pixels import as_floats, mse_per_image


class _PixelCodec(NetworkCodec):
    """A deterministic decoder, whose loss is the mean squared error of its pixels in [0, 1]."""

    sampling: ClassVar[None] = None
    setting: ClassVar[str] = ""

    def losses(self, weights, images, code, nums_kept, key):
        """See `Codec`."""
        images = as_floats(images)
        return jax.lax.map(
            lambda n: mse_per_image(images, self.decode(weights, code, n, key)), nums_kept
        )


@dataclasses.dataclass(frozen=True)
class IndexCodec(_PixelCodec):
    """Indices [B, ..., G] of a network with a quantizer; zeros stand for groups not kept.

    The network has `encode(images) -> Quantized`, `decode(latents)` and `quantizer`, and says of
    itself what `Tokenizer` does: `check_images`, `check_image_size`, `num_positions`,
    `position_axes`, `sizes`, `facts` and `example_side`.
    """

    module: Any

    name: ClassVar[str] = "indices"

    @property
    def codebook_size(self) -> int:
        """K, codewords per group."""
        return self.module.quantizer.codebook_size

    @property
    def units(self) -> Units:
        """Groups, 1 to G."""
        groups = self.module.quantizer.num_groups
        return Units("groups", groups, tuple(range(1, groups + 1)), "zeros")

    @property
    def sizes(self) -> dict[str, int]:
        """`num_groups`, `codebook_size` and those of the network."""
        return {
            "num_groups": self.units.total,
            "codebook_size": self.codebook_size,
            **self.module.sizes,
        }

    def check_code(self, code):
        """See `Codec`."""
        axes, groups = self.module.position_axes, self.units.total
        if not np.issubdtype(code.dtype, np.integer):
            raise ValueError(f"indices must be integers, not {code.dtype}")
        if code.ndim != 2 + len(axes) or code.shape[-1] != groups:
            raise ValueError(f"indices {code.shape} must be [{', '.join(('B', *axes))}, {groups}]")
        check_index_range(code, self.codebook_size)

    def encode(self, weights, images):
        """[B, ..., G] int32; see `Codec`."""
        return self.module.apply(weights.variables, as_floats(images), method="encode").indices

    def decode(self, weights, code, num_kept, key, sampling=None):
        """Of the codewords of the first `num_kept` groups; see `Codec`."""
        del key, sampling

        def decode(module, indices):
            return module.decode(module.quantizer.lookup(indices, num_groups=num_kept))

        return self.module.apply(weights.variables, code, method=decode)

    @property
    def prefixes(self) -> Units:
        """Groups; of a single one the principal components of its codewords, 1, 2, 4, ..., C."""
        if self.units.total > 1:
            return self.units
        total = self.module.quantizer.latent_channels
        return Units("components", total, powers(total), "the codewords' mean", 1)

    def decode_prefix(self, weights, code, num_kept, key, stand_in=None):
        """Of the first groups, or of codewords in as many dimensions; see `Codec`.

        Semanticist, section 5.4, keeps 1, 2, 4 and 8 principal components of LlamaGen's 8 channels;
        here they are those of all K codewords as the decoder reads them, each counted once.
        """
        del stand_in
        if self.units.total > 1:
            return self.decode(weights, code, num_kept, key)

        def decode(module, indices):
            codewords = module.quantizer.lookup(jnp.arange(self.codebook_size)[:, None])
            latents = module.quantizer.lookup(indices)
            return module.decode(keep_components(latents, codewords, num_kept))

        return self.module.apply(weights.variables, code, method=decode)

    def features(self, weights, code):
        """[B, G, D]: the codewords of a group, averaged over all positions."""

        def look_up(module, indices):
            return module.quantizer.lookup_groups(indices)

        vectors = self.module.apply(weights.variables, code, method=look_up)
        return jnp.mean(vectors, axis=tuple(range(1, vectors.ndim - 2)))

    def lookup(self, weights, code):
        """[B, ..., C]: what the decoder reads of the codewords of all groups."""
        return self.module.apply(weights.variables, code, method=lambda m, x: m.quantizer.lookup(x))

    def tokens(self, weights, images):
        """[B, ..., C]: what the quantizer takes."""
        return self.module.apply(weights.variables, as_floats(images), method="encode_unquantized")

    def codings(self, steps=()):
        """The indices, at fixed length or by a code for each group; see `Codec`."""
        del steps
        bits = (math.log2(self.codebook_size),) * self.units.total
        way = Coding("indices", self._send, symbol_bits=bits)
        return Codings(self.encode, (way,))

    def _send(self, weights, indices, key, step):
        del weights, key, step
        return Sent(indices, indices, None)

    def bits(self, height, width):
        """Positions x groups x log2(codewords per group)."""
        positions = self.module.num_positions(height, width)
        return positions * self.units.total * math.log2(self.codebook_size)

    def card(self):
        """See `Codec`."""
        groups, side = self.units.total, self.module.example_side
        facts = {
            **self.module.facts,
            "groups x codewords per group": f"{groups} x {self.codebook_size}",
            "bits per pixel": f"{self.bits(side, side) / side**2:.4f}",
        }
        axes = ", ".join(("B", *self.module.position_axes))
        usage = (
            f"indices = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> [{axes}, {groups}]\n"
            f"pictures = tokenizer.decode(indices, num_groups={groups})"
        )
        if groups > 1:
            usage += f"  # 1 ... {groups}: coarse to fine"
        quantizer = self.module.quantizer
        return Card(quantizer.title, facts, usage, quantizer.paper, ("vector-quantization",))


@dataclasses.dataclass(frozen=True)
class LatentCodec(Continuous, _PixelCodec):
    """A continuous code [B, ..., C], kept whole or not at all: a posterior's mean, or the latents.

    The network is as in `IndexCodec`.
    """

    module: Any

    name: ClassVar[str] = "latents"
    units: ClassVar[Units] = Units("", 1, (), "zeros")

    @property
    def sizes(self) -> dict[str, int]:
        """`latent_channels` and those of the network."""
        return {"latent_channels": self.module.quantizer.latent_channels, **self.module.sizes}

    def check_code(self, code):
        """See `Codec`."""
        axes, channels = self.module.position_axes, self.module.quantizer.latent_channels
        if code.ndim != 2 + len(axes) or code.shape[-1] != channels:
            shape = ", ".join(("B", *axes))
            raise ValueError(f"latents {code.shape} must be [{shape}, {channels}]")
        check_finite("latents", code)

    def encode(self, weights, images):
        """[B, ..., C] float32; see `Codec`."""
        return self.module.apply(weights.variables, as_floats(images), method="encode").latents

    def decode(self, weights, code, num_kept, key, sampling=None):
        """Of the code, or of zeros; see `Codec`."""
        del key, sampling
        latents = jnp.where(num_kept > 0, code, 0)
        return self.module.apply(weights.variables, latents, method="decode")

    def codings(self, steps=()):
        """Latents, a posterior's means, rounded to multiples of each step; and draws from it.

        The network also has `encode_unquantized(images)`, what its bottleneck takes; see `Codec`.
        """
        has_posterior = self.module.quantizer.has_posterior
        name = "means" if has_posterior else "latents"
        ways = [Coding(name, self._send_rounded, step) for step in steps]
        if has_posterior:
            ways.insert(0, Coding("samples", self._send_sample))
        return Codings(self._before_bottleneck, tuple(ways), self._spread)

    def _before_bottleneck(self, weights, images):
        return self.module.apply(weights.variables, as_floats(images), method="encode_unquantized")

    def _latents(self, weights, taken):
        """What the decoder reads, of what the bottleneck takes."""

        def quantize(module, taken):
            return module.quantizer(taken, train=False).latents

        return self.module.apply(weights.variables, taken, method=quantize)

    def _spread(self, weights, taken):
        return mean_square(self._latents(weights, taken))

    def _send_rounded(self, weights, taken, key, step):
        del key
        return rounded(self._latents(weights, taken), step)

    def _send_sample(self, weights, taken, key, step):
        del weights, step
        latents, nats = self.module.quantizer.draw(taken, key)
        return Sent(latents, None, nats / math.log(2))

    def features(self, weights, code):
        """[B, 1, C]: the code averaged over all positions."""
        del weights
        return jnp.mean(code, axis=tuple(range(1, code.ndim - 1)))[:, None]

    def card(self):
        """See `Codec`."""
        channels = self.module.quantizer.latent_channels
        facts = {
            **self.module.facts,
            "latent channels": f"{channels}",
        }
        axes = ", ".join(("B", *self.module.position_axes))
        usage = (
            f"latents = tokenizer.encode(images)  # [B, H, W, 3] in [-1, 1] -> "
            f"[{axes}, {channels}]\n"
            "pictures = tokenizer.decode(latents)"
        )
        quantizer = self.module.quantizer
        return Card(quantizer.title, facts, usage, quantizer.paper, ("continuous-latents",))
