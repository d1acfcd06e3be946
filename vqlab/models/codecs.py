"""The codecs: indices of any quantizer, continuous latents, and Semanticist's concepts."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vqlab.models.codec import Card, Sampling, Units
from vqlab.models.codings import Coding, Codings, Sent, mean_square, rounded
from vqlab.models.concept_decoding import NO_GUIDANCE, concept_losses, decode_concepts
from vqlab.ops.components import keep_components
from vqlab.ops.pixels import as_floats, mse_per_image


class _NetworkCodec:
    """What the network itself says."""

    module: Any

    @property
    def prefixes(self) -> Units:
        """The units."""
        return self.units

    def decode_prefix(self, weights, code, num_kept, key):
        """Of the first units; see `Codec`."""
        return self.decode(weights, code, num_kept, key)

    def check_image_size(self, size, name):
        """See `Codec`."""
        self.module.check_image_size(size, name)

    def check_images(self, images):
        """See `Codec`."""
        self.module.check_images(images)


class _PixelCodec(_NetworkCodec):
    """A deterministic decoder, whose loss is the mean squared error of its pixels in [0, 1]."""

    sampling: ClassVar[None] = None
    setting: ClassVar[str] = ""

    def losses(self, weights, images, code, nums_kept, key):
        """See `Codec`."""
        images = as_floats(images)
        return jax.lax.map(
            lambda n: mse_per_image(images, self.decode(weights, code, n, key)), nums_kept
        )


class _Continuous:
    """A code of numbers, which is its own vectors."""

    codebook_size: ClassVar[None] = None

    def lookup(self, weights, code):
        """The code itself."""
        del weights
        return code

    def tokens(self, weights, images):
        """The code itself."""
        return self.encode(weights, images)

    def bits(self, height, width):
        """None: continuous."""
        return None


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
        if code.size and not 0 <= code.min() <= code.max() < self.codebook_size:
            raise ValueError(
                f"indices lie in [{code.min()}, {code.max()}]; "
                f"this tokenizer's lie in [0, {self.codebook_size - 1}]"
            )

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
        return Units("components", total, _powers(total), "the codewords' mean", 1)

    def decode_prefix(self, weights, code, num_kept, key):
        """Of the first groups, or of codewords in as many dimensions; see `Codec`.

        Semanticist, section 5.4, keeps 1, 2, 4 and 8 principal components of LlamaGen's 8 channels;
        here they are those of all K codewords as the decoder reads them, each counted once.
        """
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
        return self.module.apply(
            weights.variables, as_floats(images), method="encode_unquantized"
        )

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
class LatentCodec(_Continuous, _PixelCodec):
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
        _check_finite("latents", code)

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
        return self.module.apply(
            weights.variables, as_floats(images), method="encode_unquantized"
        )

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


@dataclasses.dataclass(frozen=True)
class ConceptCodec(_Continuous, _NetworkCodec):
    """Semanticist's concepts [B, S, D]: the first k, learned nulls for the others.

    module: a `Semanticist`. sampling: how its decoder samples.
    """

    module: Any
    sampling: Sampling

    name: ClassVar[str] = "concepts"

    def __post_init__(self):
        self._check(self.sampling)

    def _check(self, sampling: Sampling) -> None:
        """What the sampler cannot take is a ValueError now, not after compilation."""
        output = jnp.zeros((1, self.module.process.output_channels(1)))
        sample = functools.partial(
            self.module.process.sample,
            lambda x_t, t: output,
            key=jax.random.key(0),
            num_steps=sampling.num_steps,
            sampler=sampling.sampler,
        )
        jax.eval_shape(sample, jnp.zeros((1, 1)))

    @property
    def units(self) -> Units:
        """Concepts: 1, 2, 4, ..., S."""
        total = self.module.num_concepts
        return Units("concepts", total, _powers(total), "nulls", self.module.concept_dim)

    @property
    def sizes(self) -> dict[str, int]:
        """`num_concepts`, `concept_dim` and `image_size`."""
        names = ("num_concepts", "concept_dim", "image_size")
        return {name: getattr(self.module, name) for name in names}

    @property
    def setting(self) -> str:
        """Sampler, steps and guidance."""
        sampler = self.sampling.sampler or self.module.process.sampler
        text = f"{self.sampling.num_steps} steps of {sampler}"
        guidance = self.sampling.guidance
        if guidance is None:
            return f"{text}, no guidance"
        text += f", guidance {guidance.scale:g} ({guidance.schedule}"
        if guidance.schedule == "interval":
            text += " {:g} to {:g}".format(*guidance.interval)
        return f"{text})"

    def check_code(self, code):
        """See `Codec`."""
        total, dim = self.module.num_concepts, self.module.concept_dim
        if code.ndim != 3 or code.shape[1:] != (total, dim):
            raise ValueError(f"concepts {code.shape} must be [B, {total}, {dim}]")
        _check_finite("concepts", code)

    def encode(self, weights, images):
        """[B, S, D] float32; see `Codec`."""
        return self.module.apply(weights.variables, as_floats(images), method="encode")

    def decode(self, weights, code, num_kept, key, sampling=None):
        """One sample for each image; see `Codec`."""
        sampling = sampling or self.sampling
        return decode_concepts(
            self.module,
            weights.variables,
            weights.frozen.get("latent_space", {}),
            code,
            key=key,
            num_kept=num_kept,
            guidance=sampling.guidance or NO_GUIDANCE,
            num_steps=sampling.num_steps,
            sampler=sampling.sampler,
        )

    def losses(self, weights, images, code, nums_kept, key):
        """Squared error of the decoder's prediction at a random time; see `Codec`."""
        posterior_key, loss_key = jax.random.split(key)
        latents = self.module.latent_space.encode(
            weights.frozen.get("latent_space", {}), as_floats(images), posterior_key
        )
        return jax.lax.map(
            lambda n: concept_losses(
                self.module, weights.variables, latents, code, key=loss_key, num_kept=n
            ),
            nums_kept,
        )

    def features(self, weights, code):
        """[B, S, D]: the concepts themselves."""
        del weights
        return code

    def codings(self, steps=()):
        """Concepts rounded to multiples of each step, every number with a table of its own.

        See `Codec`.
        """
        ways = [Coding("concepts", self._send_rounded, step) for step in steps]
        return Codings(self.encode, tuple(ways), lambda weights, code: mean_square(code))

    def _send_rounded(self, weights, code, key, step):
        del weights, key
        sent = rounded(code, step)
        return sent._replace(symbols=sent.symbols.reshape(len(code), -1))

    def card(self):
        """See `Codec`."""
        total, dim, side = self.module.num_concepts, self.module.concept_dim, self.module.image_size
        settings = self.sampling.settings()
        facts = {
            "image size": f"{side} pixels",
            "concepts x numbers in each": f"{total} x {dim}",
            "what is denoised": self.module.latent_space.description,
            "sampling": self.setting,
        }
        usage = (
            f"concepts = tokenizer.encode(images)  # [B, {side}, {side}, 3] in [-1, 1] -> "
            f"[B, {total}, {dim}]\n"
            "pictures = tokenizer.decode(\n"
            f"    concepts, num_concepts={total}, guidance_scale={settings['guidance_scale']}, "
            f"num_steps={settings['num_steps']}, seed=0\n"
            f")  # 0 ... {total} concepts: what explains most comes first"
        )
        paper = "https://arxiv.org/abs/2503.08685"
        return Card("Semanticist", facts, usage, paper, ("continuous-latents", "diffusion"))


def _powers(total: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the total, which ends them."""
    powers = (2**i for i in range(total.bit_length()))
    return (*(k for k in powers if k < total), total)


def _check_finite(name: str, numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} hold NaN or infinite numbers")
