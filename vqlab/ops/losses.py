"""Losses of the two players, the tokenizer and the discriminator.

Every loss is a float32 scalar, a mean over all elements, whatever the dtype of its inputs: images
[B, H, W, 3] in [-1, 1] or a discriminator's logits [B, h, w, 1]. The adversarial part is the hinge
recipe of LlamaGen (vq_loss.py), which MGVQ's files derive from. `index_nll` is what second stages
predict indices for.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]

ADAPTIVE_WEIGHT_EPS = 1e-4
ADAPTIVE_WEIGHT_MAX = 1e4


def l1(reconstruction: Float[Array, "..."], images: Float[Array, "..."]) -> Scalar:
    """Mean absolute error; with pixels in [-1, 1] it lies in [0, 2]."""
    return jnp.mean(jnp.abs(_difference(reconstruction, images)))


def l2(reconstruction: Float[Array, "..."], images: Float[Array, "..."]) -> Scalar:
    """Mean squared error; with pixels in [-1, 1] it lies in [0, 4]."""
    return jnp.mean(jnp.square(_difference(reconstruction, images)))


RECONSTRUCTION = {"l1": l1, "l2": l2}


def hinge_discriminator(
    real_logits: Float[Array, "..."], fake_logits: Float[Array, "..."]
) -> Scalar:
    """Half of mean(relu(1 - real)) + mean(relu(1 + fake)): real above 1, fake below -1 costs 0."""
    real = jax.nn.relu(1.0 - real_logits.astype(jnp.float32))
    fake = jax.nn.relu(1.0 + fake_logits.astype(jnp.float32))
    return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def hinge_generator(fake_logits: Float[Array, "..."]) -> Scalar:
    """Minus the mean logit of the reconstructions; unbounded below."""
    return -jnp.mean(fake_logits.astype(jnp.float32))


def adaptive_weight(
    reconstruction_grad: Float[Array, "..."], adversarial_grad: Float[Array, "..."]
) -> Scalar:
    """Weight that gives the adversarial gradient the length of the reconstruction gradient.

    Both are gradients with respect to the decoder's last kernel:
    |reconstruction| / (|adversarial| + 1e-4), clamped to [0, 1e4], with no gradient of its own
    (VQGAN, eq. 7).
    """
    reconstruction_norm = jnp.linalg.norm(reconstruction_grad.astype(jnp.float32).ravel())
    adversarial_norm = jnp.linalg.norm(adversarial_grad.astype(jnp.float32).ravel())
    weight = reconstruction_norm / (adversarial_norm + ADAPTIVE_WEIGHT_EPS)
    return jax.lax.stop_gradient(jnp.clip(weight, 0.0, ADAPTIVE_WEIGHT_MAX))


def _difference(reconstruction: Array, images: Array) -> Array:
    if reconstruction.shape != images.shape:
        # Broadcasting would turn a wrong shape into a plausible number.
        raise ValueError(
            f"reconstruction {reconstruction.shape} and images {images.shape} differ in shape"
        )
    return reconstruction.astype(jnp.float32) - images.astype(jnp.float32)


def index_nll(
    logits: Float[Array, "*dims K"], indices: Int[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """-log p of each index in nats, in float32: the cross entropy without its mean."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, indices[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
