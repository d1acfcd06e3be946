"""What the two players of a tokenizer want.

The tokenizer wants small reconstruction, perceptual, codebook and adversarial losses; the
discriminator wants to tell reconstructions from images. MGVQ's own training losses were never
published; the terms and default weights are those of the code base that its released files derive
from, LlamaGen's VQ tokenizer (vq_train.py, vq_loss.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from vqlab.models.pretrained.lpips import lpips_distance
from vqlab.ops import losses
from vqlab.ops import rng as rng_streams
from vqlab.ops.pixels import as_floats
from vqlab.registry import check_choice
from vqlab.training.objectives.quantizer_loss import quantizer_loss
from vqlab.training.step import Aux, Stored, Tree

TOKENIZER, DISCRIMINATOR = "tokenizer", "discriminator"
GROUP_REDUCTIONS: dict[str, Callable] = {"mean": jnp.mean, "sum": jnp.sum}


@dataclasses.dataclass(frozen=True)
class TokenizerObjective:
    """Losses of a tokenizer, with or without a discriminator.

    Attributes:
      tokenizer: a network that returns a `Reconstruction`, such as `models.tokenizer.Tokenizer`.
      discriminator: a `PatchDiscriminator`, or None for no adversarial term.
      reconstruction: "l1" or "l2", on pixels in [-1, 1].
      reconstruction_weight: its weight.
      lpips_weight: weight of LPIPS; when it is not 0, `frozen["lpips"]` holds the network.
      quantizer_weight: weight of the bottleneck's losses: "vq" and "commit", or "kl" in nats per
        image.
      group_reduction: "mean" or "sum" of these losses over the groups. The mean of vq and
        commitment losses equals the loss of one quantizer on the whole latent.
      adversarial_weight: of the generator's term, and of the discriminator's loss.
      adversarial_start: the step from which both count; 0 before.
      adaptive_weight: scale the generator's term by the ratio of the gradient norms that the
        reconstruction and the adversarial loss give the decoder's last kernel (VQGAN, eq. 7).
    """

    tokenizer: nn.Module
    discriminator: nn.Module | None = None
    reconstruction: str = "l2"
    reconstruction_weight: float = 1.0
    lpips_weight: float = 1.0
    quantizer_weight: float = 1.0
    group_reduction: str = "mean"
    adversarial_weight: float = 0.5
    adversarial_start: int = 20_000
    adaptive_weight: bool = False

    inputs: ClassVar[tuple[str, ...]] = ("images",)
    stored: ClassVar[Mapping[str, Stored]] = {}

    def __post_init__(self):
        check_choice("reconstruction loss", self.reconstruction, losses.RECONSTRUCTION)
        check_choice("group_reduction", self.group_reduction, GROUP_REDUCTIONS)

    @classmethod
    def create(
        cls, network: nn.Module, build_part: Callable[[str], Any], **settings: Any
    ) -> TokenizerObjective:
        """See `Objective`; without an adversarial weight the discriminator is left out."""
        discriminator = build_part("discriminator") if settings["adversarial_weight"] else None
        return cls(tokenizer=network, discriminator=discriminator, **settings)

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """See `Objective`."""
        fields = (field.name for field in dataclasses.fields(cls))
        return tuple(name for name in fields if name not in ("tokenizer", "discriminator"))

    @property
    def network(self) -> nn.Module:
        """The tokenizer."""
        return self.tokenizer

    @property
    def needs(self) -> tuple[str, ...]:
        """LPIPS, where it counts."""
        return ("lpips",) if self.lpips_weight else ()

    def prepare(self, frozen: Mapping[str, Tree], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Images as floats; see `Objective`."""
        del frozen
        return {**batch, "images": as_floats(batch["images"])}

    @property
    def players(self) -> tuple[str, ...]:
        """The names that params, losses and optimizers are keyed by."""
        return (TOKENIZER,) if self.discriminator is None else (TOKENIZER, DISCRIMINATOR)

    def init(self, rng: jax.Array, batch: dict) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(params, variables), keyed by player; `batch` gives the shapes."""
        keys = rng_streams.streams(rng, TOKENIZER, DISCRIMINATOR)
        params, variables = {}, {}
        for player in self.players:
            module = getattr(self, player)
            collections = dict(module.init(keys[player], batch["images"], train=False))
            params[player] = collections.pop("params")
            variables[player] = collections
        return params, variables

    def __call__(self, params, variables, frozen, batch, *, rng, step):
        """({player: loss}, Aux); batch["images"] is [B, H, W, 3] in [-1, 1], or uint8."""
        images = self.prepare(frozen, batch)["images"]
        output, tokenizer_variables, last_kernel_pullback = self._reconstruct(
            params[TOKENIZER], variables[TOKENIZER], images, rng
        )
        reconstruction_loss = self._reconstruction_loss(frozen, images)
        loss, metrics = reconstruction_loss(output.images)
        own, terms = quantizer_loss(output.quantized, GROUP_REDUCTIONS[self.group_reduction])
        metrics |= terms
        player_losses = {TOKENIZER: loss + self.quantizer_weight * own}
        new_variables = {TOKENIZER: tokenizer_variables}

        if self.discriminator is not None:
            started = jnp.where(step >= self.adversarial_start, self.adversarial_weight, 0.0)
            adversarial = self._adversarial_loss(params[DISCRIMINATOR], variables[DISCRIMINATOR])
            weight = jnp.float32(1.0)
            if self.adaptive_weight:
                weight = _adaptive_weight(
                    output.images, last_kernel_pullback, reconstruction_loss, adversarial
                )
            generator_loss = adversarial(output.images)[0]
            player_losses[TOKENIZER] += started * weight * generator_loss
            loss, new_variables[DISCRIMINATOR], terms = self._discriminator_loss(
                params[DISCRIMINATOR], variables[DISCRIMINATOR], images, output.images
            )
            player_losses[DISCRIMINATOR] = started * loss
            metrics |= terms
            metrics |= {"adversarial": generator_loss, "adversarial_weight": started * weight}

        return player_losses, Aux(new_variables, metrics, output.quantized.update)

    def post_update(self, params: dict[str, Tree], update: Tree) -> dict[str, Tree]:
        """What the bottleneck does beside gradient steps, such as reseeding dead codewords."""
        if not update:
            return params
        return params | {TOKENIZER: self.tokenizer.post_update(params[TOKENIZER], update)}

    def _reconstruct(self, params, variables, images, rng):
        """The tokenizer's output, its new variables, and the pullback to its last kernel.

        Only what lies behind the last kernel is linearised for that pullback: one convolution.
        """

        def apply(params):
            output, updated = self.tokenizer.apply(
                {"params": params} | variables,
                images,
                train=True,
                mutable=list(variables),
                rngs=rng_streams.streams(rng, "mask", "reseed", "dropout", "posterior"),
            )
            return output, dict(updated)

        if not self.adaptive_weight:
            return *apply(params), None
        flat = traverse_util.flatten_dict(params)
        path = self.tokenizer.last_kernel_path

        def forward(kernel):
            output, updated = apply(traverse_util.unflatten_dict(flat | {path: kernel}))
            return output.images, (output, updated)

        pixels, pull_back, (output, updated) = jax.vjp(forward, flat[path], has_aux=True)
        return output._replace(images=pixels), updated, pull_back

    def _reconstruction_loss(self, frozen, images):
        def loss(reconstruction):
            pixel = losses.RECONSTRUCTION[self.reconstruction](reconstruction, images)
            total, terms = self.reconstruction_weight * pixel, {self.reconstruction: pixel}
            if self.lpips_weight:
                # Six times faster on a TPU than float32 products, which evaluation has.
                distance = lpips_distance(frozen["lpips"], reconstruction, images, precision=None)
                terms["lpips"] = jnp.mean(distance)
                total += self.lpips_weight * terms["lpips"]
            return total, terms

        return loss

    def _adversarial_loss(self, params, variables):
        # The discriminator's weights are constants to the tokenizer.
        params = jax.lax.stop_gradient(params)

        def loss(reconstruction):
            logits, _ = self._judge(params, variables, reconstruction)
            return losses.hinge_generator(logits), {}

        return loss

    def _discriminator_loss(self, params, variables, images, reconstruction):
        real, variables = self._judge(params, variables, images)
        fake, variables = self._judge(params, variables, jax.lax.stop_gradient(reconstruction))
        terms = {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
        return losses.hinge_discriminator(real, fake), variables, terms

    def _judge(self, params, variables, images):
        """Logits, and the variables after one more batch; real and fake have own statistics."""
        logits, updated = self.discriminator.apply(
            {"params": params} | variables, images, train=True, mutable=list(variables)
        )
        return logits, dict(updated)


def _adaptive_weight(reconstruction, pull_back, reconstruction_loss, adversarial_loss):
    """Ratio of gradient norms at the last kernel, without a second pass through the decoder."""

    def last_kernel_gradient(loss):
        (kernel,) = pull_back(jax.grad(lambda pixels: loss(pixels)[0])(reconstruction))
        return kernel

    return jax.lax.stop_gradient(
        losses.adaptive_weight(
            last_kernel_gradient(reconstruction_loss), last_kernel_gradient(adversarial_loss)
        )
    )
