"""What quantizers of signs share: LFQ and BSQ write one bit a channel, of a codebook never stored.

Bits are independent given a token, so entropies come from `ops.bits` without an array of an entry
for each token and codeword.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.nn.layers import FLOAT32
from vqlab.nn.quantized import CountingBottleneck, Kept, Quantized, flat
from vqlab.ops import bits as ops
from vqlab.ops import sent as tokens_sent
from vqlab.ops.counts import check_kept
from vqlab.ops.mesh import reshape
from vqlab.ops.straight_through import straight_through

MAX_BITS = 20  # of a group: usage is counted for each of its codewords


class BinaryQuantizer(CountingBottleneck):
    """Each channel becomes its sign times one magnitude; zero counts as negative.

    A position has G indices in 0..K-1, each of log2 K channels. The softmax over all codewords of
    inverse_temperature * 2 token codeword makes bit i one with probability sigmoid(
    4 inverse_temperature magnitude token_i), independently. Losses, zero outside training unless
    `eval_losses`:

      commit   commitment_weight * mean((token - codeword)^2), [G]
      entropy  entropy_weight * (sample_weight * H(code | token), averaged over tokens,
               - batch_weight * H(code)), in nats

    Both entropies are sums over blocks of `entropy_bits` bits. H(code | token) is exact for any
    number of bits; H(code), of the batch's mean distribution, is exact within a block, and the sum
    over blocks is an upper bound of the whole. They are [G], or [1] where a block spans groups.
    Stats in training: those of `CountingBottleneck` and both entropies, `token_entropy` and
    `batch_entropy`.

    codebook_size: K, a power of two. num_groups: G. latent_channels: C; 0 for one a bit, any other
    number adds linear maps in front and behind. entropy_bits: 0 for those of a group.
    low_bit_first: the first channel is the lowest bit of the index, not the highest.
    entropy_floor, entropy_offset: see `ops.bits.entropy`; a floor takes [N, K] arrays.
    pool_groups: one mean distribution of all groups, though their bits differ in meaning.
    eval_gradient: gradients pass to the encoder outside training too. usage_decay: rate of
    `usage_ema`.
    """

    codebook_size: int
    num_groups: int = 1
    latent_channels: int = 0
    entropy_weight: float = 0.1
    sample_weight: float = 1.0
    batch_weight: float = 1.0
    commitment_weight: float = 0.25
    inverse_temperature: float = 10.0
    scale: float = 1.0
    entropy_bits: int = 0
    low_bit_first: bool = False
    entropy_floor: float = 0.0
    entropy_offset: float = 0.0
    pool_groups: bool = False
    eval_gradient: bool = True
    eval_losses: bool = False
    usage_decay: float = 0.01

    def __post_init__(self):
        size, bits = self.codebook_size, self.bits_per_group
        if size < 2 or size != 2**bits:
            raise ValueError(f"codebook_size={size} must be a power of two, 2 or more")
        if bits > MAX_BITS:
            raise ValueError(
                f"codebook_size=2**{bits} is above 2**{MAX_BITS}: give num_groups to split the bits"
            )
        if self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1")
        self.entropy_bits = self.entropy_bits or bits
        if self.num_bits % self.entropy_bits or (
            bits % self.entropy_bits and self.entropy_bits % bits
        ):
            raise ValueError(
                f"entropy_bits={self.entropy_bits} do not fit {self.num_groups} groups of {bits}"
            )
        self.latent_channels = self.latent_channels or self.num_bits
        super().__post_init__()

    @property
    def bits_per_group(self) -> int:
        """log2 K."""
        return max(self.codebook_size, 1).bit_length() - 1

    @property
    def num_bits(self) -> int:
        """Of a position."""
        return self.num_groups * self.bits_per_group

    @property
    def input_channels(self) -> int:
        """Channels of the latents it takes: as many as it gives."""
        return self.latent_channels

    @property
    def is_projected(self) -> bool:
        """Whether linear maps stand around the signs."""
        return self.latent_channels != self.num_bits

    @property
    def channel_groups(self) -> int:
        """G; 1 where channels mix anyway."""
        return 1 if self.is_projected else self.num_groups

    @property
    def magnitude(self) -> float:
        """Of every channel of a codeword."""
        return self.scale

    def setup(self):
        self.make_meters()
        if self.is_projected:
            self.project_in = nn.Dense(self.num_bits, precision=FLOAT32)
            self.project_out = nn.Dense(self.latent_channels, precision=FLOAT32)

    def __call__(
        self,
        latents: Float[Array, "B *dims C"],
        *,
        train: bool,
        num_groups: int | None = None,
        keep: Bool[Array, "B *dims"] | None = None,
    ) -> Quantized:
        """Quantize `latents`; groups beyond the first `num_groups` (None: all) are zeros."""
        self.check_latents(latents)
        scalars = self._to_scalars(latents)
        is_one = jax.lax.stop_gradient(scalars) > 0
        codewords = self._codewords(is_one)
        indices = ops.bits_to_indices(is_one, low_bit_first=self.low_bit_first)
        entropies = self._entropies(scalars, flat(keep))
        losses, stats = self._losses(scalars, codewords, entropies, keep), {}
        if train:
            tokens = reshape(indices, (-1, self.num_groups))
            counted = jnp.ones(tokens.shape, bool)
            stats, _ = self.count(tokens, counted, self.usage_decay, flat(keep))
            stats |= zip(("token_entropy", "batch_entropy"), entropies, strict=True)
        elif not self.eval_losses:
            losses = jax.tree.map(jnp.zeros_like, losses)
        if train or self.eval_gradient:
            codewords = self.pass_through(scalars, codewords)
        decoded = self._decode(codewords, num_groups).astype(latents.dtype)
        return Quantized(decoded, indices, losses, stats, {})

    def lookup(
        self, indices: Int[Array, "*dims G"], *, num_groups: Kept = None
    ) -> Float[Array, "*dims C"]:
        """What the decoder reads, float32; groups beyond `num_groups` (None: all) are zeros."""
        return self._decode(self.lookup_groups(indices), num_groups)

    def lookup_groups(self, indices: Int[Array, "*dims G"]) -> Float[Array, "*dims G L"]:
        """Each group's signs times the magnitude."""
        self.check_indices(indices)
        bits = ops.indices_to_bits(indices, self.bits_per_group, low_bit_first=self.low_bit_first)
        return self._codewords(bits)

    def entropies(self, latents: Float[Array, "B *dims C"]) -> tuple[Array, Array]:
        """(H(code | token) averaged over tokens, H(code)) in nats, [G] or [1] each."""
        return self._entropies(self._to_scalars(latents))

    def logits(self, latents: Float[Array, "B *dims C"]) -> Float[Array, "N blocks L"]:
        """Of each bit being one, float32, in blocks of `entropy_bits`."""
        return self._logits(self._to_scalars(latents))

    def prepare(self, scalars: Float[Array, "*dims G L"]) -> Float[Array, "*dims G L"]:
        """Scalars as they are compared with codewords."""
        return scalars

    def pass_through(self, scalars, codewords):
        """`codewords` with the gradient of `scalars`."""
        return straight_through(scalars, codewords)

    def _to_scalars(self, latents):
        scalars = latents.astype(jnp.float32)
        if self.is_projected:
            scalars = self.project_in(scalars)
        shape = (*latents.shape[:-1], self.num_groups, self.bits_per_group)
        return self.prepare(reshape(scalars, shape))

    def _codewords(self, is_one):
        return jnp.where(is_one, self.magnitude, -self.magnitude).astype(jnp.float32)

    def _decode(self, codewords: Float[Array, "*dims G L"], num_groups: Kept):
        used = check_kept("num_groups", num_groups, self.num_groups)
        codewords = jnp.where(jnp.arange(self.num_groups)[:, None] < used, codewords, 0.0)
        scalars = reshape(codewords, (*codewords.shape[:-2], self.num_bits))
        return self.project_out(scalars) if self.is_projected else scalars

    def _losses(self, scalars, codewords, entropies, keep) -> dict[str, Array]:
        difference = scalars - codewords
        axes = (*range(scalars.ndim - 2), scalars.ndim - 1)
        entropy = self.sample_weight * entropies[0] - self.batch_weight * entropies[1]
        return {
            "commit": self.commitment_weight * tokens_sent.mean(difference**2, keep, axes),
            "entropy": self.entropy_weight * entropy,
        }

    def _logits(self, scalars):
        bits = reshape(scalars, (-1, self.num_bits // self.entropy_bits, self.entropy_bits))
        return 4 * self.inverse_temperature * self.magnitude * bits

    def _entropies(self, scalars, sent=None):
        logits = self._logits(scalars)
        if self.pool_groups:
            if sent is not None:
                sent = reshape(jnp.broadcast_to(sent[:, None], logits.shape[:2]), (-1,))
            logits = reshape(logits, (-1, 1, self.entropy_bits))
        if self.entropy_floor:
            probabilities = ops.code_probabilities(logits)
            of_tokens = ops.entropy(probabilities, floor=self.entropy_floor)
        else:
            of_tokens = ops.bits_entropy(logits)
        mean = ops.mean_code_probabilities(logits, sent)
        of_batch = ops.entropy(mean, floor=self.entropy_floor, offset=self.entropy_offset)
        return self._by_group(tokens_sent.mean(of_tokens, sent)), self._by_group(of_batch)

    def _by_group(self, of_blocks: Float[Array, " blocks"]) -> Array:
        """The sum over each group's blocks [G], or over all [1] where blocks span groups."""
        has_whole = len(of_blocks) % self.num_groups == 0
        return jnp.sum(of_blocks.reshape(self.num_groups if has_whole else 1, -1), -1)
