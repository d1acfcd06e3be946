"""Binary spherical quantization: signs of a unit vector, so that codewords lie on its sphere.

Zhao et al. 2024, "Image and Video Tokenization with Binary Spherical Quantization", section 3.2. It
meets the arrays of BSQ-ViT's own class (bsq.py) and of vector-quantize-pytorch's spherical LFQ.
"""

from typing import ClassVar

import jax

from vqlab.nn.binary import BinaryQuantizer
from vqlab.ops.codebook import l2_normalize
from vqlab.ops.mesh import reshape
from vqlab.registry import check_choice

SPHERES = {"position": "all bits", "group": "the bits of a group", "given": "all, as they come"}


class BSQ(BinaryQuantizer):
    """LFQ on the sphere; settings, losses and statistics as in `BinaryQuantizer`.

    Entropies by single bits, `entropy_bits` 1, are the paper's approximation, which costs nothing
    at any number of bits.

    sphere: what is normalised to length `scale`: the bits of a "position", those of a "group", or
    nothing, "given" latents that lie on a position's sphere. shrink_gradient: gradients for the
    encoder are multiplied by the magnitude, as in BSQ-ViT's own class.
    """

    sphere: str = "position"
    shrink_gradient: bool = False

    title: ClassVar[str] = "BSQ"

    def __post_init__(self):
        check_choice("sphere", self.sphere, SPHERES)
        super().__post_init__()

    @property
    def magnitude(self) -> float:
        """scale / sqrt(bits on a sphere)."""
        bits = self.bits_per_group if self.sphere == "group" else self.num_bits
        return self.scale / bits**0.5

    def prepare(self, scalars):
        """On the sphere."""
        if self.sphere == "given":
            return scalars
        if self.sphere == "group":
            return self.scale * l2_normalize(scalars)
        flat = reshape(scalars, (*scalars.shape[:-2], self.num_bits))
        return reshape(self.scale * l2_normalize(flat), scalars.shape)

    def pass_through(self, scalars, codewords):
        """`codewords` with a gradient of `scalars`."""
        if self.shrink_gradient:
            shrunk = self.magnitude * scalars
            scalars = shrunk + jax.lax.stop_gradient(scalars - shrunk)
        return super().pass_through(scalars, codewords)
