"""Lookup-free quantization: the codeword is the sign of every channel.

Yu et al. 2024, "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", section
3.1. It meets the arrays of vector-quantize-pytorch's LFQ (entropy_floor 1e-5, eval_gradient off)
and of Open-MAGVIT2's (entropy_offset 1e-5, low_bit_first, pool_groups).
"""

from typing import ClassVar

import jax.numpy as jnp

from vqlab.nn.binary import BinaryQuantizer


class LFQ(BinaryQuantizer):
    """Signs of magnitude `scale`; settings, losses and statistics as in `BinaryQuantizer`.

    Open-MAGVIT2's token factorization is `num_groups` with `entropy_bits` of the whole position;
    into parts of unequal length, `ops.bits.split_indices`.

    soft_clamp: v for v tanh(x / v) in front; 0 for none.
    """

    soft_clamp: float = 0.0

    title: ClassVar[str] = "LFQ"

    def prepare(self, scalars):
        """Clamped softly."""
        limit = self.soft_clamp
        return jnp.tanh(scalars / limit) * limit if limit else scalars
