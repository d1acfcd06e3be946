"""PatchGAN discriminator: one logit for each overlapping patch of an image.

pix2pix (section 6.1.2) as configured by VQGAN and LlamaGen (discriminator_patchgan.py).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_WIDENING = 8  # widths stop growing at 8 x channels

_conv_init = nn.initializers.normal(0.02)


def _scale_init(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class PatchDiscriminator(nn.Module):
    """Stack of 4x4 convolutions, `num_layers` of stride 2 and then two of stride 1.

    Attributes:
      channels: width of the first layer; doubled in each further one, up to 8 times.
      num_layers: convolutions of stride 2; 3 gives every logit a view of 70 x 70 pixels.
      dtype: activation dtype; parameters and logits are float32.
    """

    channels: int = 64
    num_layers: int = 3
    dtype: jnp.dtype | str = "float32"

    @property
    def min_side(self) -> int:
        """Smallest image side that leaves one logit."""
        return 3 * 2**self.num_layers

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool
    ) -> Float[Array, "B h_patch w_patch 1"]:
        """Logits, positive for real images in [-1, 1]; h_patch = H // 2**num_layers - 2.

        With `train` BatchNorm normalises by this batch and updates "batch_stats".

        Raises:
          ValueError: an image side is below `min_side`.
        """
        height, width = images.shape[1:3]
        if min(height, width) < self.min_side:
            raise ValueError(
                f"images of {height}x{width} are too small for a discriminator with "
                f"num_layers={self.num_layers}: the smallest side is {self.min_side}"
            )
        x = images.astype(self.dtype)
        x = nn.leaky_relu(self._conv(self.channels, stride=2, name="conv_0")(x), 0.2)
        for i in range(1, self.num_layers + 1):
            stride = 2 if i < self.num_layers else 1
            features = self.channels * min(2**i, MAX_WIDENING)
            # BatchNorm's own bias makes one in the convolution before it redundant.
            x = self._conv(features, stride=stride, use_bias=False, name=f"conv_{i}")(x)
            x = self._norm(train, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        x = self._conv(1, stride=1, name="logits")(x)
        return x.astype(jnp.float32)

    def _conv(self, features: int, *, stride: int, name: str, use_bias: bool = True) -> nn.Conv:
        return nn.Conv(
            features,
            kernel_size=(4, 4),
            strides=stride,
            padding=1,
            use_bias=use_bias,
            kernel_init=_conv_init,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, train: bool, *, name: str) -> nn.BatchNorm:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large
            scale_init=_scale_init,
            name=name,
        )
