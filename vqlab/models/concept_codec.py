"""The codec of Semanticist's concepts, and what it has in common with that of quantized ones."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vqlab.models.codec import Card, Sampling, Units
from vqlab.models.codec_parts import Continuous, NetworkCodec, check_finite, powers
from vqlab.models.codings import Coding, Codings, mean_square, rounded
from vqlab.models.concept_decoding import NO_GUIDANCE, concept_losses, decode_concepts
from vqlab.ops.pixels import as_floats


@dataclasses.dataclass(frozen=True)
class DecodedConcepts(NetworkCodec):
    """Codecs of concepts, whose decoder samples: the first k, learned nulls for the others.

    A subclass has a code with `units` of concepts, and `lookup`, its concepts [B, S, D].

    module: a `Semanticist`. sampling: how its decoder samples.
    """

    module: Any
    sampling: Sampling

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

    def decode(self, weights, code, num_kept, key, sampling=None):
        """One sample for each image; see `Codec`."""
        sampling = sampling or self.sampling
        return decode_concepts(
            self.module,
            weights.variables,
            weights.frozen.get("latent_space", {}),
            self.lookup(weights, code),
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
        concepts = self.lookup(weights, code)
        return jax.lax.map(
            lambda n: concept_losses(
                self.module, weights.variables, latents, concepts, key=loss_key, num_kept=n
            ),
            nums_kept,
        )

    def features(self, weights, code):
        """[B, S, D]: the concepts themselves."""
        return self.lookup(weights, code)

    def _encode(self, weights, images):
        """[B, S, D] float32: what the encoder gives."""
        return self.module.apply(weights.variables, as_floats(images), method="encode")

    def _card(self, facts: dict[str, str], noun: str, shape: str, tags: tuple[str, ...]) -> Card:
        """With what all have in common; `shape` is that of a code."""
        total, side = self.module.num_concepts, self.module.image_size
        settings = self.sampling.settings()
        facts = facts | {
            "what is denoised": self.module.latent_space.description,
            "sampling": self.setting,
        }
        usage = (
            f"{noun} = tokenizer.encode(images)  # [B, {side}, {side}, 3] in [-1, 1] -> {shape}\n"
            "pictures = tokenizer.decode(\n"
            f"    {noun}, num_concepts={total}, guidance_scale={settings['guidance_scale']}, "
            f"num_steps={settings['num_steps']}, seed=0\n"
            f")  # 0 ... {total} concepts: what explains most comes first"
        )
        return Card("Semanticist", facts, usage, "https://arxiv.org/abs/2503.08685", tags)


@dataclasses.dataclass(frozen=True)
class ConceptCodec(Continuous, DecodedConcepts):
    """Semanticist's concepts [B, S, D] as numbers."""

    name: ClassVar[str] = "concepts"

    @property
    def units(self) -> Units:
        """Concepts: 1, 2, 4, ..., S."""
        total = self.module.num_concepts
        return Units("concepts", total, powers(total), "nulls", self.module.concept_dim)

    def check_code(self, code):
        """See `Codec`."""
        total, dim = self.module.num_concepts, self.module.concept_dim
        if code.ndim != 3 or code.shape[1:] != (total, dim):
            raise ValueError(f"concepts {code.shape} must be [B, {total}, {dim}]")
        check_finite("concepts", code)

    def encode(self, weights, images):
        """[B, S, D] float32; see `Codec`."""
        return self._encode(weights, images)

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
        facts = {
            "image size": f"{side} pixels",
            "concepts x numbers in each": f"{total} x {dim}",
        }
        tags = ("continuous-latents", "diffusion")
        return self._card(facts, "concepts", f"[B, {total}, {dim}]", tags)
