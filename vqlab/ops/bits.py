"""Codes of bits: how bits are written as indices, and how likely and how uncertain codes are.

A token's L bits are independent: bit i is one with probability sigmoid(logit i), and a code's
probability is the product of its bits'. So a token's entropy is a sum over bits, and the mean
distribution of a batch is a product of two matrices, [N, 2^(L/2)] each: no array has an entry for
each pair of a token and a code.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vqlab.ops.mesh import over_batch, reshape


def bits_to_indices(
    bits: Bool[Array, "*dims L"], *, low_bit_first: bool = False
) -> Int[Array, "*dims"]:
    """The numbers that the bits write, the highest bit first unless said otherwise; int32."""
    return jnp.sum(bits.astype(jnp.int32) << _places(bits.shape[-1], low_bit_first), -1)


def indices_to_bits(
    indices: Int[Array, "*dims"], num_bits: int, *, low_bit_first: bool = False
) -> Bool[Array, "*dims L"]:
    """Undoes `bits_to_indices`."""
    return (indices[..., None] >> _places(num_bits, low_bit_first)) % 2 == 1


def split_indices(
    indices: Int[Array, "*dims"], num_bits: tuple[int, ...], *, low_bit_first: bool = False
) -> Int[Array, "*dims parts"]:
    """Each index as several of `num_bits` bits each: the token factorization of Open-MAGVIT2.

    The first part has the first bits, so parts of other lengths need no other quantizer.
    """
    bits = indices_to_bits(indices, sum(num_bits), low_bit_first=low_bit_first)
    ends = [sum(num_bits[:i]) for i in range(1, len(num_bits))]
    parts = [
        bits_to_indices(part, low_bit_first=low_bit_first) for part in jnp.split(bits, ends, -1)
    ]
    return jnp.stack(parts, -1)


def join_indices(
    parts: Int[Array, "*dims parts"], num_bits: tuple[int, ...], *, low_bit_first: bool = False
) -> Int[Array, "*dims"]:
    """Undoes `split_indices`."""
    bits = [
        indices_to_bits(parts[..., i], count, low_bit_first=low_bit_first)
        for i, count in enumerate(num_bits)
    ]
    return bits_to_indices(jnp.concatenate(bits, -1), low_bit_first=low_bit_first)


def _places(num_bits: int, low_bit_first: bool) -> Int[Array, " L"]:
    places = jnp.arange(num_bits, dtype=jnp.int32)
    return places if low_bit_first else places[::-1]


def code_probabilities(logits: Float[Array, "*dims L"]) -> Float[Array, "*dims K"]:
    """The probability of each of K = 2^L codes, by index, the highest bit first."""
    pairs = _bit_probabilities(logits)
    probabilities = jnp.ones((*logits.shape[:-1], 1))
    for bit in range(logits.shape[-1]):
        joint = probabilities[..., :, None] * pairs[..., bit, None, :]
        probabilities = reshape(joint, (*logits.shape[:-1], -1))
    return probabilities


@jax.custom_jvp
def _bit_probabilities(logits: Float[Array, "*dims L"]) -> Float[Array, "*dims L 2"]:
    """Of zero and of one; each is exact where it is small."""
    return jax.nn.sigmoid(jnp.stack([-logits, logits], -1))


@_bit_probabilities.defjvp
def _(primals, tangents):
    # One product for both: what is 1 - p in float32 is lost for a p near one, and the gradients of
    # the two nearly cancel where a bit is certain.
    pairs = _bit_probabilities(*primals)
    slope = pairs[..., 0] * pairs[..., 1] * tangents[0]
    return pairs, jnp.stack([-slope, slope], -1)


@over_batch
def mean_code_probabilities(
    logits: Float[Array, "N *dims L"], sent: Bool[Array, " N"] | None = None
) -> Float[Array, "*dims K"]:
    """The mean of `code_probabilities` over the N tokens, without an [N, K] array.

    Over those that are `sent`; zeros of none.
    """
    half = logits.shape[-1] // 2
    high, low = code_probabilities(logits[..., :half]), code_probabilities(logits[..., half:])
    count = logits.shape[0]
    if sent is not None:
        high = jnp.where(jnp.expand_dims(sent, tuple(range(1, high.ndim))), high, 0.0)
        count = jnp.maximum(jnp.sum(sent), 1)
    joint = jnp.einsum("n...h,n...l->...hl", high, low, precision="highest")
    joint = joint / count
    return joint.reshape(*joint.shape[:-2], -1)


def bits_entropy(logits: Float[Array, "*dims L"]) -> Float[Array, "*dims"]:
    """Entropy of each token's code in nats, exact: the sum over its bits."""
    size = jnp.abs(logits)
    return jnp.sum(jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size), -1)


def entropy(
    probabilities: Float[Array, "*dims K"], *, floor: float = 0.0, offset: float = 0.0
) -> Float[Array, "*dims"]:
    """-sum(p log(max(p, floor) + offset)) in nats; exact without floor and offset."""
    inner = jnp.maximum(probabilities, floor) + offset
    is_zero = inner == 0
    return -jnp.sum(probabilities * jnp.log(jnp.where(is_zero, 1.0, inner)), -1)
