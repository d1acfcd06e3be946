"""No bottleneck but the number of channels: what a plain autoencoder reaches is the ceiling."""

from typing import ClassVar

from jaxtyping import Array, Bool, Float

from vqlab.nn.quantized import Bottleneck, Kept, Quantized
from vqlab.ops.counts import check_kept


class IdentityBottleneck(Bottleneck):
    """Latents as they are: no indices, no losses, no parameters; their rate is unbounded.

    latent_channels: C.
    """

    latent_channels: int

    codebook_size: ClassVar[None] = None
    num_groups: ClassVar[int] = 1

    def __post_init__(self):
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels={self.latent_channels} must be at least 1")
        super().__post_init__()

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """The latents; zeros for `num_groups` 0 instead of 1 (or None). Nothing is counted."""
        self.check_latents(latents)
        kept = check_kept("num_groups", num_groups, 1)
        return Quantized(latents if kept else 0 * latents, None, {}, {}, {})

    def lookup(self, indices: Array, *, num_groups: Kept = None) -> Array:
        """Raises ValueError: there are no codewords to look up."""
        raise ValueError("a plain autoencoder has no indices: decode its latents")
