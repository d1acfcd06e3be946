"""What Semanticist trains: a diffusion loss given a random prefix of the concepts, and REPA.

Where concepts are quantized, the quantizer's losses join, of the concepts in the prefix.

Semanticist, section 4 and appendix C.1; diffuse_slot.py forward_with_latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from einops import repeat
from flax import linen as nn

from vqlab.models.pretrained.dinov2 import repa_teacher
from vqlab.models.semanticist import Semanticist
from vqlab.ops import nesting, resize
from vqlab.ops import rng as rng_streams
from vqlab.ops.pixels import as_floats
from vqlab.training.objectives.quantizer_loss import quantizer_loss
from vqlab.training.objectives.reconstruction import TOKENIZER
from vqlab.training.step import Aux, Stored, Tree

NEVER = -1
NETWORK_STREAMS = ("drop_path", "mask", "reseed")  # the last two are the quantizer's
STREAMS = ("posterior", "keep", "time", "noise", *NETWORK_STREAMS)


@dataclasses.dataclass(frozen=True)
class ConceptObjective:
    """The one loss of encoder and decoder.

    Attributes:
      tokenizer: a `Semanticist`.
      nested_start: the step from which each sample keeps a random prefix; -1 for never.
      condition_dropout: share of samples without any concept before that step.
      null_share: the same after it. As published 0, though guidance then leans on a case that is
        not trained any more.
      repa_weight: of the alignment with another network's features.
      repa: that network, which maps images to features [B, h, w, F], with its parameters in
        `frozen["repa"]`; None without alignment, or where the features always come with the batch.
      draws_per_image: times and noises that the decoder sees for one pass of the encoder. Each has
        a prefix of its own, so a quantizer sees every concept as often as there are draws.
      quantizer_weight: of the quantizer's losses, means over its groups and the kept concepts.
    """

    tokenizer: Semanticist
    nested_start: int = 0
    condition_dropout: float = 0.1
    null_share: float = 0.0
    repa_weight: float = 1.0
    repa: nn.Module | None = None
    draws_per_image: int = 1
    quantizer_weight: float = 1.0

    players: ClassVar[tuple[str, ...]] = (TOKENIZER,)
    inputs: ClassVar[tuple[str, ...]] = ("images",)

    @classmethod
    def create(
        cls, network: Semanticist, build_part: Callable[[str], Any], **settings: Any
    ) -> ConceptObjective:
        """See `Objective`; with a projector in the decoder its teacher joins."""
        del build_part
        repa = repa_teacher() if network.decoder.repa_dim else None
        return cls(tokenizer=network, repa=repa, **settings)

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """See `Objective`."""
        fields = (field.name for field in dataclasses.fields(cls))
        return tuple(name for name in fields if name not in ("tokenizer", "repa"))

    @property
    def network(self) -> Semanticist:
        """The tokenizer."""
        return self.tokenizer

    @property
    def stored(self) -> Mapping[str, Stored]:
        """The autoencoder's moments, and the features that REPA aligns with."""
        arrays = {}
        if self.tokenizer.frozen_parts():
            arrays["moments"] = Stored("latent_space")
        if self.repa is not None:
            # Only their direction is used, and they are the largest array by far.
            arrays["repa_features"] = Stored("repa", dtype="float16")
        return arrays

    @property
    def needs(self) -> tuple[str, ...]:
        """The networks that make what is stored."""
        return tuple(stored.network for stored in self.stored.values())

    def prepare(self, frozen: Mapping[str, Tree], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds "moments" [B, h, w, 2C] and "repa_features" [B, h', w', F]; see `Objective`."""
        batch = {**batch, "images": as_floats(batch["images"])}
        missing = self.stored.keys() - batch.keys()
        if "moments" in missing:
            space = self.tokenizer.latent_space
            batch["moments"] = space.moments(frozen["latent_space"], batch["images"])
        if "repa_features" in missing:
            features = self.repa.apply(frozen["repa"], batch["images"])
            batch["repa_features"] = jax.lax.stop_gradient(features)
        return batch

    def __post_init__(self):
        for name in ("condition_dropout", "null_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is no share; choose 0..1")
        if self.nested_start < NEVER:
            raise ValueError(f"nested_start={self.nested_start}: choose a step, or -1 for never")
        if self.draws_per_image < 1:
            raise ValueError(f"draws_per_image={self.draws_per_image} must be at least 1")

    def init(self, rng: jax.Array, batch: dict) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(params, variables) of the tokenizer; `batch` gives the shapes."""
        collections = dict(self.tokenizer.init(rng, batch["images"]))
        return {TOKENIZER: collections.pop("params")}, {TOKENIZER: collections}

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        """({"tokenizer": loss}, Aux).

        batch["images"] is [B, H, W, 3] in [-1, 1], or uint8. Where the batch has "moments" of the
        autoencoder or "repa_features", the frozen networks are not run.
        """
        batch = self.prepare(frozen, batch)
        keys = rng_streams.streams(rng, *STREAMS)
        images, draws = batch["images"], self.draws_per_image
        latents = repeat(self._latents(batch, keys["posterior"]), "b ... -> (b n) ...", n=draws)
        process, total = self.tokenizer.process, self.tokenizer.num_concepts
        kept = nesting.draw_num_kept(
            keys["keep"],
            len(latents),
            total,
            is_nested=(step >= self.nested_start) & (self.nested_start != NEVER),
            condition_dropout=self.condition_dropout,
            null_share=self.null_share,
        )
        loss, aux = self._losses(
            {"params": params[TOKENIZER], **variables[TOKENIZER]},
            images,
            latents,
            jax.random.normal(keys["noise"], latents.shape),
            process.draw_times(keys["time"], len(latents)),
            nesting.keep_first(kept, total),
            batch["repa_features"] if self.tokenizer.decoder.repa_dim else None,
            rngs={name: keys[name] for name in NETWORK_STREAMS},
        )
        return {TOKENIZER: loss}, aux

    def losses(self, weights, images, latents, noise, t, keep_mask, repa_features=None, *, rngs):
        """(loss, {term: mean}) of given draws.

        `images` [B, H, W, 3]; `latents`, `noise` [B n, h, w, C], `t` [B n] and `keep_mask`
        [B n, S] are n draws for each image; `repa_features` [B, h', w', F] or None.
        """
        draws = latents, noise, t, keep_mask
        loss, aux = self._losses(weights, images, *draws, repa_features, rngs=rngs)
        return loss, aux.metrics

    def _losses(self, weights, images, latents, noise, t, keep_mask, repa_features, *, rngs):
        """(loss, Aux); arguments as of `losses`."""
        process = self.tokenizer.process
        x_t = process.add_noise(latents, noise, t)

        def forward(model, images):
            concepts = repeat(
                model.encode(images, train=True),
                "b ... -> (b n) ...",
                n=len(latents) // len(images),
            )
            quantized = model.quantize(concepts, train=True, keep_mask=keep_mask)
            return model.denoise(x_t, t, quantized.latents, keep_mask=keep_mask), quantized

        (output, quantized), variables = self.tokenizer.apply(
            weights,
            images,
            method=forward,
            rngs=rngs,
            mutable=[name for name in weights if name != "params"],
        )
        terms = process.losses(output.prediction, latents, noise, t)
        terms = {name: jnp.mean(values) for name, values in terms.items()}
        loss = terms.pop("loss")
        if repa_features is not None:
            terms["repa"] = repa_loss(output.features, repa_features)
            loss += self.repa_weight * terms["repa"]
        own, of_quantizer = quantizer_loss(quantized)
        loss += self.quantizer_weight * own
        return loss, Aux({TOKENIZER: dict(variables)}, terms | of_quantizer, quantized.update)

    def _latents(self, batch: Mapping[str, Any], key: jax.Array) -> jax.Array:
        space = self.tokenizer.latent_space
        if "moments" in batch:
            return space.from_moments(batch["moments"], key)
        return space.encode({}, batch["images"], key)

    def post_update(self, params: dict[str, Tree], update: Tree) -> dict[str, Tree]:
        """What the quantizer does beside gradient steps, if there is one."""
        if not update:
            return params
        return params | {TOKENIZER: self.tokenizer.post_update(params[TOKENIZER], update)}


def repa_loss(projected: jax.Array, features: jax.Array) -> jax.Array:
    """Minus the mean cosine of projected [B n, h, w, F] and target features [B, h', w', F].

    The projected features are resized bicubically to the targets' grid (diffuse_slot.py).
    """
    features = repeat(features, "b ... -> (b n) ...", n=len(projected) // len(features))
    projected = resize.bicubic(projected, *features.shape[1:3])
    # As torch.nn.functional.normalize norms are at least 1e-12, which gives gradients at 0.
    cosine = optax.losses.cosine_similarity(projected, features.astype(jnp.float32), epsilon=1e-24)
    return -jnp.mean(cosine)
