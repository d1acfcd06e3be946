"""Nodes of bottlenecks for `config.model.quantizer`: one function each, with what one may choose.

`place(model, node)` puts one into a tokenizer's node and gives the encoder as many latent channels
as it takes. The convolutional encoder averages its last width into them, so they must divide it:
where bits or levels do not, give FSQ, LFQ and BSQ `channels`, and they add linear maps.
"""

import ml_collections


def place(model: ml_collections.ConfigDict, node: ml_collections.ConfigDict) -> None:
    """Makes `node` the quantizer of this tokenizer."""
    has_moments = node.name == "gaussian_bottleneck"  # a mean and a log-variance for each channel
    model.quantizer = node
    model.encoder.latent_channels = (2 if has_moments else 1) * node.latent_channels


def grouped(
    channels: int,
    codebook_size: int,
    num_groups: int,
    *,
    reseed: bool = True,
    beta: float = 0.25,
    mask_range: tuple = (),
    mask_per_sample: bool = False,
) -> ml_collections.ConfigDict:
    """MGVQ: `num_groups` codebooks of `codebook_size` unit codewords, channels split among them."""
    return _node(
        "grouped_quantizer",
        num_groups=num_groups,
        codebook_size=codebook_size,
        latent_channels=channels,
        beta=beta,
        mask_range=tuple(mask_range),
        mask_probs=(),
        mask_per_sample=mask_per_sample,
        usage_decay=0.01,
        reseed=reseed,
    )


def vector_quantizer(
    channels: int,
    codebook_size: int,
    *,
    distance: str = "euclidean",
    learning: str = "gradient",
    reseed: bool = True,
    beta: float = 0.25,
) -> ml_collections.ConfigDict:
    """VQ, one codebook: distance "euclidean" or "cosine"; learning by "gradient" or "ema"."""
    return _node(
        "vector_quantizer",
        codebook_size=codebook_size,
        latent_channels=channels,
        distance=distance,
        learning=learning,
        reseed=reseed,
        beta=beta,
    )


def residual_quantizer(
    channels: int,
    codebook_size: int,
    num_layers: int,
    *,
    distance: str = "euclidean",
    learning: str = "gradient",
    reseed: bool = True,
    beta: float = 0.25,
    shared: bool = False,
    mask_range: tuple = (),
    mask_per_sample: bool = False,
) -> ml_collections.ConfigDict:
    """RVQ: layers stand in the place of groups; `mask_range` and the like are layer dropout."""
    return _node(
        "residual_quantizer",
        num_groups=num_layers,
        codebook_size=codebook_size,
        latent_channels=channels,
        distance=distance,
        learning=learning,
        reseed=reseed,
        beta=beta,
        shared=shared,
        mask_range=tuple(mask_range),
        mask_per_sample=mask_per_sample,
    )


def fsq(levels: tuple, channels: int = 0, num_groups: int = 1) -> ml_collections.ConfigDict:
    """FSQ; channels 0: one for each level, any other number adds linear maps around it."""
    return _node(
        "fsq",
        levels=tuple(levels),
        num_groups=num_groups,
        latent_channels=channels or num_groups * len(levels),
    )


def lfq(codebook_size: int, *sizes: int, **settings) -> ml_collections.ConfigDict:
    """LFQ of log2(codebook_size) bits a group; sizes and settings as in `_binary`."""
    return _binary("lfq", codebook_size, *sizes, **settings)


def bsq(codebook_size: int, *sizes: int, **settings) -> ml_collections.ConfigDict:
    """BSQ of log2(codebook_size) bits a group; sizes and settings as in `_binary`."""
    return _binary("bsq", codebook_size, *sizes, **settings)


def _binary(
    name: str,
    codebook_size: int,
    channels: int = 0,
    num_groups: int = 1,
    *,
    entropy_weight: float = 0.1,
    commitment_weight: float = 0.25,
    inverse_temperature: float = 10.0,
    entropy_bits: int = 0,
) -> ml_collections.ConfigDict:
    """channels 0: one a bit, any other number adds linear maps; entropy_bits 0: a group's."""
    return _node(
        name,
        codebook_size=codebook_size,
        num_groups=num_groups,
        latent_channels=channels or _bits(codebook_size, num_groups),
        entropy_weight=entropy_weight,
        commitment_weight=commitment_weight,
        inverse_temperature=inverse_temperature,
        entropy_bits=entropy_bits or _bits(codebook_size, 1),
    )


def simvq(channels: int, codebook_size: int, *, beta: float = 0.25) -> ml_collections.ConfigDict:
    """SimVQ: a frozen random codebook behind one linear map that is trained."""
    return _node("simvq", codebook_size=codebook_size, latent_channels=channels, beta=beta)


def ibq(
    channels: int,
    codebook_size: int,
    *,
    beta: float = 0.25,
    entropy_weight: float = 0.05,
    entropy_temperature: float = 0.01,
) -> ml_collections.ConfigDict:
    """IBQ: gradients reach every codeword through a softmax over the codebook."""
    return _node(
        "ibq",
        codebook_size=codebook_size,
        latent_channels=channels,
        beta=beta,
        entropy_weight=entropy_weight,
        entropy_temperature=entropy_temperature,
    )


def gaussian(channels: int) -> ml_collections.ConfigDict:
    """A VAE; its KL has the weight `config.objective.quantizer_weight`."""
    return _node("gaussian_bottleneck", latent_channels=channels)


def none(channels: int) -> ml_collections.ConfigDict:
    """No bottleneck but the number of channels: a plain autoencoder."""
    return _node("identity_bottleneck", latent_channels=channels)


def published(name: str, variant: str) -> ml_collections.ConfigDict:
    """A published bottleneck for MGVQ's backbone "f8", "f16" or "f32"; see PUBLISHED."""
    if name not in PUBLISHED:
        raise ValueError(f"unknown bottleneck {name!r}; choose from {', '.join(PUBLISHED)}")
    return PUBLISHED[name](variant)


CHANNELS = 32  # as many as MGVQ has, so that the backbone is the same to the last layer
KL_CHANNELS = {"f8": 4, "f16": 16, "f32": 64}  # of LDM's kl-f8, kl-f16 and kl-f32

# name -> node for a variant. Settings are the published ones; backbones and training are not.
PUBLISHED = {
    # LlamaGen's VQ-16 (vq_model.py): 16,384 unit codewords of 8 channels, beta 0.25, no reseeding.
    "vq16384": lambda variant: vector_quantizer(8, 16384, distance="cosine", reseed=False),
    # Mentzer et al. 2023, table 1: the levels for 2^14 codewords.
    "fsq": lambda variant: fsq((8, 8, 8, 6, 5), CHANNELS),
    # Open-MAGVIT2 (imagenet_lfqgan_256_L.yaml, lookup_free_quantize.py): 18 bits, temperature 0.01.
    "lfq": lambda variant: lfq(2**18, CHANNELS, inverse_temperature=100.0),
    # BSQ-ViT (imagenet_256x256_bsqvit_b18g18_stylegan_f8_fp16.yaml): 18 bits, entropies by single
    # bits at temperature 1, no commitment loss; codebook_weight 0.1, three times as much in the
    # first 2,000 steps there.
    "bsq": lambda variant: bsq(
        2**18, CHANNELS, entropy_bits=1, commitment_weight=0.0, inverse_temperature=1.0
    ),
    # LDM's KL autoencoders; see `kl_weight` for the weight.
    "vae": lambda variant: gaussian(KL_CHANNELS[variant]),
}


def kl_weight(image_size: int) -> float:
    """LDM's 1e-6 of a sum over latents beside a sum over pixel values; here pixels are averaged."""
    return 1e-6 / (3 * image_size**2)


def _bits(codebook_size: int, num_groups: int) -> int:
    return num_groups * (codebook_size.bit_length() - 1)


def _node(name: str, **settings) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"name": name, **settings})
