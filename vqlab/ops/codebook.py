"""Codebooks: nearest codeword, usage, and reseeding of dead codewords.

Everything here is pure and works per group, on `tokens` [N, G, D] and `codebook` [G, K, D] in
float32. They may have any norm: unless a distance is given, only their directions count (cosine).
Source: MGVQ, mgvq.py VectorQuantizer; its reseeding is the probabilistic anchor of CVQ-VAE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt

from vqlab.ops.mesh import along_batch, over_batch, replicate, varying_as
from vqlab.ops.sent import places

BLOCK = 128  # codewords scored at once: the width of a TPU lane, and among the fastest on CPU


def l2_normalize(x: Float[Array, "*dims D"], eps: float = 1e-12) -> Float[Array, "*dims D"]:
    """x / max(|x|, eps) over the last axis, in float32 (torch.nn.functional.normalize)."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, -1, keepdims=True)
    is_short = square <= eps * eps
    # The inner `where` keeps the gradient of the root finite at zero.
    return x / jnp.where(is_short, eps, jnp.sqrt(jnp.where(is_short, 1.0, square)))


def select_codewords(
    codebook: Float[Array, "G K D"], indices: Int[Array, "*dims G"]
) -> Float[Array, "*dims G D"]:
    """Row `indices[..., g]` of every group's codebook."""
    return _rows(indices, codebook)


@along_batch
def _rows(indices, codebook):
    return codebook[jnp.arange(codebook.shape[0]), indices]


def _cosine(tokens, codebook):
    return l2_normalize(tokens), l2_normalize(codebook)


def _euclidean(tokens, codebook):
    """|t - c|^2 is smallest where t c - |c|^2 / 2, the product of these, is largest."""
    tokens, codebook = tokens.astype(jnp.float32), codebook.astype(jnp.float32)
    ones = jnp.ones_like(tokens[..., :1])
    halves = -0.5 * jnp.sum(codebook * codebook, -1, keepdims=True)
    return jnp.concatenate([tokens, ones], -1), jnp.concatenate([codebook, halves], -1)


def _dot(tokens, codebook):
    return tokens.astype(jnp.float32), codebook.astype(jnp.float32)


# (tokens, codebook) -> arrays whose products are largest for the nearest codeword.
DISTANCES: dict[str, Callable] = {"cosine": _cosine, "euclidean": _euclidean, "dot": _dot}


@along_batch
def nearest_codeword(
    tokens: Float[Array, "N G D"], codebook: Float[Array, "G K D"], distance: str = "cosine"
) -> Int[Array, "N G"]:
    """Index of the codeword nearest to each token, by DISTANCES; the first one on exact ties.

    The [N, K] scores never exist: a scan over blocks of codewords holds N * G * BLOCK of them. It
    runs over K and not over N, so that a token axis sharded over devices stays sharded. A block is
    reduced to its best score alone, which vectorises where an argmax does not; the place inside
    the winning block is found afterwards by scoring that block again.
    """
    size = codebook.shape[1]
    tokens, codebook = jax.lax.stop_gradient(DISTANCES[distance](tokens, codebook))
    tokens = rearrange(tokens, "N G D -> G N D")
    blocks = _codeword_blocks(replicate(codebook), min(BLOCK, size))

    def visit(best, item):
        best_score, best_block = best
        number, codewords = item
        score = jnp.max(jnp.einsum("gnd,gdk->gnk", tokens, codewords, precision="highest"), -1)
        is_better = score > best_score
        best_block = jnp.where(is_better, number, best_block)
        return (jnp.maximum(score, best_score), best_block), None

    start = (jnp.full(tokens.shape[:2], -jnp.inf), jnp.zeros(tokens.shape[:2], jnp.int32))
    start = tuple(varying_as(x, tokens, blocks) for x in start)
    numbers = jnp.arange(len(blocks), dtype=jnp.int32)
    (_, best_block), _ = jax.lax.scan(visit, start, (numbers, blocks))
    place = jnp.argmax(_scores_in_block(tokens, blocks, best_block), -1).astype(jnp.int32)
    return (best_block * blocks.shape[-1] + place).T


def _codeword_blocks(
    codebook: Float[Array, "G K D"], block: int
) -> Float[Array, "blocks G D block"]:
    """The codebook cut along K, the last block filled up with copies of the last codeword.

    A copy comes after its original, and the first index wins a tie, so no copy is ever chosen.
    """
    codebook = jnp.pad(codebook, ((0, 0), (0, -codebook.shape[1] % block), (0, 0)), mode="edge")
    return rearrange(codebook, "G (blocks block) D -> blocks G D block", block=block)


def _scores_in_block(
    tokens: Float[Array, "G N D"],
    blocks: Float[Array, "blocks G D block"],
    chosen: Int[Array, "G N"],
) -> Float[Array, "G N block"]:
    """Every token's scores in its chosen block.

    Summed channel by channel, so that no [G, N, D, block] array of gathered codewords exists.
    """
    groups = jnp.arange(len(tokens))[:, None]

    def add_channel(scores, channel):
        token_channel, codeword_channel = channel
        return scores + token_channel[..., None] * codeword_channel[chosen, groups], None

    zeros = jnp.zeros((*chosen.shape, blocks.shape[-1]), jnp.float32)
    channels = (jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(blocks, 2, 0))
    zeros = varying_as(zeros, tokens, blocks, chosen)
    return jax.lax.scan(add_channel, zeros, channels, unroll=8)[0]


@over_batch
def codeword_counts(
    indices: Int[Array, "N G"], size: int, weights: Shaped[Array, "N G"] | None = None
) -> Float[Array, "G K"]:
    """How many tokens chose each of the K=`size` codewords; negative indices count nowhere."""
    num_groups = indices.shape[-1]
    weights = jnp.ones(indices.shape) if weights is None else weights.astype(jnp.float32)
    weights = jnp.where(indices < 0, 0.0, weights)
    zeros = jnp.zeros((num_groups, size), jnp.float32)
    return zeros.at[jnp.arange(num_groups), jnp.maximum(indices, 0)].add(weights)


def perplexity(counts: Float[Array, "G K"]) -> Float[Array, " G"]:
    """exp(entropy) of the share of tokens per codeword: 1 if one takes all, K if all are equal."""
    share = counts / jnp.maximum(jnp.sum(counts, -1, keepdims=True), 1.0)
    return jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10), -1))


@over_batch
def push_recent(recent: Int[Array, "G R"], indices: Int[Array, "N G"]) -> Int[Array, "G R"]:
    """Append the newest indices at the end of the buffer of the last R; the oldest fall out."""
    length = recent.shape[-1]
    newest = indices[-length:].T
    return jnp.concatenate([recent[:, newest.shape[-1] :], newest], -1)


def recent_usage(recent: Int[Array, "G R"], size: int) -> Float[Array, " G"]:
    """Share of the K=`size` codewords that occur in the buffer; -1 is an empty place."""
    return jnp.mean(codeword_counts(recent.T, size) > 0, -1)


def update_usage(
    usage_ema: Float[Array, "G K"], counts: Float[Array, "G K"], decay: float = 0.01
) -> Float[Array, "G K"]:
    """Move the running share of tokens per codeword to this batch's; groups without tokens stay."""
    total = jnp.sum(counts, -1, keepdims=True)
    share = counts / jnp.maximum(total, 1.0)
    return jnp.where(total > 0, usage_ema + decay * (share - usage_ema), usage_ema)


def reseed_weight(usage_ema: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """The share of the old codeword that reseeding keeps: 0.001 if never used, 1 if used."""
    return 1.0 - jnp.exp(-usage_ema * (usage_ema.shape[-1] * 10.0 / 0.01) - 0.001)


def reseed(
    codebook: Float[Array, "G K D"], codewords: Float[Array, "G K D"], keep: Float[Array, "G K"]
) -> Float[Array, "G K D"]:
    """keep * old + (1 - keep) * drawn; keep = 1 leaves a codeword bit for bit as it is."""
    keep = keep[..., None]
    mixed = codebook * keep + codewords * (1.0 - keep)
    return jnp.where(keep == 1.0, codebook, mixed).astype(codebook.dtype)


def draw_probabilities(
    tokens: Float[Array, "N G D"], codebook: Float[Array, "G K D"]
) -> Float[Array, "G K N"]:
    """Probability that each codeword is reseeded from each token: softmax over N of -|z - e|^2.

    The full matrix, to check with; `draw_tokens` draws from it without making it.
    """
    # The released code also clamps the weights at 1e-10, which none can reach: squared distances of
    # unit vectors lie in [0, 4], so every weight is at least exp(-4) / N.
    scores = jnp.einsum(
        "gkd,ngd->gkn", l2_normalize(codebook), l2_normalize(tokens), precision="highest"
    )
    return jax.nn.softmax(2.0 * scores, -1)


@over_batch
def draw_tokens(
    key: jax.Array,
    tokens: Float[Array, "N G D"],
    codebook: Float[Array, "G K D"],
    sent: Bool[Array, " N"] | None = None,
) -> Int[Array, "G K"]:
    """Draw one token number for each codeword from `draw_probabilities`, exactly, by rejection.

    A token is proposed uniformly and accepted with probability exp(2 s - 2) <= 1, s its cosine to
    the codeword; codewords that are still without a token propose again. Every proposal is accepted
    with at least exp(-4), so the loops end. Whenever only a quarter of the codewords is left, they
    move to a shorter array, which keeps the work near the number of proposals needed. Only tokens
    that are `sent` (None: all) are proposed.
    """
    num_groups, size = codebook.shape[:2]
    total = num_groups * size
    # One copy of the tokens on every device, or each round would communicate.
    tokens, codebook = map(replicate, jax.lax.stop_gradient((tokens, codebook)))
    tokens, codebook = l2_normalize(tokens), l2_normalize(codebook).reshape(total, -1)
    numbers, count = None, tokens.shape[0]
    if sent is not None:
        numbers, count = places(replicate(sent))
        tokens, count = tokens[numbers], count.astype(jnp.uint32)
    drawn = jnp.zeros(total, jnp.int32)
    waiting = jnp.arange(total, dtype=jnp.int32)  # codewords without a token; `total` fills up
    first_round = jnp.int32(0)
    lengths = [total]
    while lengths[-1] >= 4096:
        lengths.append(lengths[-1] // 4)
    for limit in (*lengths[1:], 0):
        codeword = jnp.minimum(waiting, total - 1)
        first_round, accepted, is_waiting = _propose_until(
            limit,
            key,
            first_round,
            tokens,
            count,
            codebook[codeword],
            codeword // size,
            waiting < total,
        )
        drawn = drawn.at[waiting].set(accepted, mode="drop")
        place = jnp.where(is_waiting, jnp.cumsum(is_waiting) - 1, limit)
        waiting = jnp.full(limit, total).at[place].set(waiting, mode="drop")
    drawn = drawn if sent is None else numbers[drawn]
    return drawn.reshape(num_groups, size)


@over_batch
def draw_uniformly(
    key: jax.Array, shape: tuple[int, ...], num_tokens: int, sent: Bool[Array, " N"] | None = None
) -> Int[Array, "*shape"]:
    """Numbers of tokens, each of those that are `sent` (None: all) equally likely."""
    if sent is None:
        return jax.random.randint(key, shape, 0, num_tokens)
    numbers, count = places(replicate(sent))
    return numbers[jax.random.randint(key, shape, 0, count)]


@over_batch
def take_tokens(tokens: Float[Array, "N G D"], numbers: Int[Array, "G K"]) -> Float[Array, "G K D"]:
    """Token `numbers[g, k]` of every group g."""
    return tokens[numbers, jnp.arange(tokens.shape[1])[:, None]]


def _propose_until(
    limit: int,
    key: jax.Array,
    first_round: Int[Array, ""],
    tokens: Float[Array, "N G D"],
    count: int | UInt[Array, ""],
    codewords: Float[Array, "M D"],
    groups: Int[Array, " M"],
    is_waiting: Bool[Array, " M"],
) -> tuple[Int[Array, ""], Int[Array, " M"], Bool[Array, " M"]]:
    """Propose until at most `limit` codewords wait: the next round, tokens, and who still waits.

    Of the tokens the first `count` are proposed.
    """

    def propose(state):
        number, accepted, is_waiting = state
        bits = jax.random.bits(jax.random.fold_in(key, number), (2, len(groups)), jnp.uint32)
        proposed = (bits[0] % count).astype(jnp.int32)  # uniform to within N / 2**32
        uniform = (bits[1] >> 8).astype(jnp.float32) * 2.0**-24
        score = jnp.sum(tokens[proposed, groups] * codewords, -1)
        # Comparing with NaN is False and so accepts: not even NaN tokens can keep the loop running.
        is_rejected = uniform >= jnp.exp(2.0 * score - 2.0)
        return number + 1, jnp.where(is_waiting, proposed, accepted), is_waiting & is_rejected

    start = (first_round, jnp.zeros(groups.shape, jnp.int32), is_waiting)
    start = tuple(varying_as(x, key, tokens, codewords, groups, is_waiting) for x in start)
    return jax.lax.while_loop(lambda state: jnp.sum(state[2]) > limit, propose, start)
