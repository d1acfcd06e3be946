"""The Gaussian bottleneck of a variational autoencoder (LDM, distributions.py and autoencoder.py).

The encoder gives a posterior for every latent as `moments` [B, h, w, 2C]: C means, then C
log-variances. KL-16, the autoencoder of MAR, has this bottleneck.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vqlab.nn.quantized import Bottleneck, Kept, Quantized

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class GaussianBottleneck(Bottleneck):
    """Moments to latents: a draw from the posterior in training, its mean otherwise.

    The loss "kl" [1] is the divergence from a standard normal prior in nats per image, without a
    weight: a sum over h, w and C, averaged over the batch, as LDM has it. It has no indices, no
    groups and no parameters. Random stream, in training only: "posterior".

    latent_channels: C, channels of the latents; the moments have twice as many.
    """

    latent_channels: int

    paper: ClassVar[str] = "https://arxiv.org/abs/1312.6114"
    has_posterior: ClassVar[bool] = True
    codebook_size: ClassVar[None] = None
    num_groups: ClassVar[int] = 1

    @property
    def input_channels(self) -> int:
        """Channels of the moments, 2C."""
        return 2 * self.latent_channels

    def setup(self):
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels={self.latent_channels} must be at least 1")

    def __call__(
        self,
        moments: Float[Array, "B *dims C2"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Latents [B,...,C] float32 and the KL loss; `num_groups` must be None or 1.

        The sum of the loss goes over positions that are kept.
        """
        if num_groups not in (None, 1):
            raise ValueError(f"num_groups={num_groups}: a Gaussian bottleneck has 1 group")
        if moments.ndim < 2 or moments.shape[-1] != self.input_channels:
            raise ValueError(
                f"moments {moments.shape} must be [B, ..., {self.input_channels}], "
                f"a mean and a log-variance for each of {self.latent_channels} channels"
            )
        if train:
            latents = draw_posterior(moments, self.make_rng("posterior"))
        else:
            latents, _ = posterior(moments)
        kl = kl_divergence(moments, keep).mean(keepdims=True)
        return Quantized(latents, None, {"kl": kl}, {}, {})

    @nn.nowrap
    def draw(
        self, moments: Float[Array, "B *dims C2"], key: jax.Array
    ) -> tuple[Float[Array, "B *dims C"], Float[Array, " B"]]:
        """Latents drawn from the posterior, and its divergence from the prior in nats per image.

        Bits-back coding sends such a draw at that price (Hinton & van Camp 1993; Townsend et al.
        2019, "Practical lossless compression with latent variables using bits back coding").
        """
        return draw_posterior(moments, key), kl_divergence(moments)

    def lookup(self, indices: Array, *, num_groups: Kept = None) -> Array:
        """Raises ValueError: there are no codewords to look up."""
        raise ValueError("a Gaussian bottleneck has no indices: decode its latents")


def posterior(
    moments: Float[Array, "*dims C2"],
) -> tuple[Float[Array, "*dims C"], Float[Array, "*dims C"]]:
    """Mean and log-variance, float32; the log-variance is clamped to [-30, 20]."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)


def draw_posterior(moments: Float[Array, "*dims C2"], key: jax.Array) -> Float[Array, "*dims C"]:
    """mean + standard deviation * a standard normal draw, float32."""
    mean, log_variance = posterior(moments)
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)


def kl_divergence(
    moments: Float[Array, "B *dims C2"], keep: Bool[Array, "B *dims"] | None = None
) -> Float[Array, " B"]:
    """KL(posterior, standard normal) in nats, summed over (kept) positions and channels."""
    mean, log_variance = posterior(moments)
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    if keep is not None:
        terms = jnp.where(keep[..., None], terms, 0.0)
    return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))
