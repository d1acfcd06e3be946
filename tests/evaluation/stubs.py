"""Small tokenizers and data that the evaluators' tests share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vqlab import models
from vqlab.models.codec import Sampling, Weights
from vqlab.models.tokenizer import Tokenizer
from vqlab.nn.bottleneck import GaussianBottleneck
from vqlab.nn.quantizers import GroupedQuantizer

STRIDE, SIDE, GROUPS, SIZE = 4, 16, 2, 8
CONCEPTS, CONCEPT_DIM = 4, 4


class PatchEncoder(nn.Module):
    latent_channels: int = 4
    stride: int = STRIDE

    @nn.compact
    def __call__(self, images, *, train):
        patches = rearrange(images, "b (h i) (w j) c -> b h w (i j c)", i=STRIDE, j=STRIDE)
        return nn.Dense(self.latent_channels)(patches)


class PatchDecoder(nn.Module):
    latent_channels: int = 4
    stride: int = STRIDE

    @nn.compact
    def __call__(self, latents, *, train):
        patches = nn.Dense(STRIDE**2 * 3)(latents)
        return rearrange(patches, "b h w (i j c) -> b (h i) (w j) c", i=STRIDE, j=STRIDE, c=3)


def grouped_tokenizer():
    quantizer = GroupedQuantizer(num_groups=GROUPS, codebook_size=SIZE, latent_channels=4)
    return Tokenizer(encoder=PatchEncoder(), quantizer=quantizer, decoder=PatchDecoder())


def autoencoder():
    bottleneck = GaussianBottleneck(latent_channels=4)
    encoder = PatchEncoder(latent_channels=bottleneck.input_channels)
    return Tokenizer(encoder=encoder, quantizer=bottleneck, decoder=PatchDecoder())


def semanticist_node():
    return {
        "name": "semanticist",
        "encoder": {
            "name": "concept_encoder",
            "image_size": SIDE,
            "patch_size": 8,
            "width": 16,
            "depth": 1,
            "num_heads": 2,
            "num_concepts": CONCEPTS,
            "concept_dim": CONCEPT_DIM,
        },
        "decoder": {
            "name": "dit",
            "latent_size": SIDE,
            "in_channels": 3,
            "out_channels": 6,
            "patch_size": 8,
            "width": 16,
            "depth": 1,
            "num_heads": 2,
            "num_concepts": CONCEPTS,
            "concept_dim": CONCEPT_DIM,
            "repa_layer": 1,
        },
        "process": {"name": "ddpm"},
        "latent_space": {"name": "pixel_space"},
    }


def semanticist():
    return models.build(semanticist_node())


def codec_of(model, **sampling):
    """The model in use, sampling with such settings."""
    return model.codec(Sampling.of(**sampling))


@functools.cache
def weights_of(model):
    """`Weights`, all random: a fresh DiT's output is zero."""
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, SIDE, SIDE, 3))))
    variables = dict(init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(x + 0.2 * rng.normal(size=x.shape), x.dtype), variables.pop("params")
    )
    return Weights({"params": params, **variables}, {})


def images(count=5, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, SIDE, SIDE, 3)).astype(np.float32)


def batches(images, labels=None):
    """`make_batches` in batches of two; the last one is padded with NaN. All splits are one."""
    count, padding = len(images), len(images) % 2
    labels = np.arange(count) if labels is None else np.asarray(labels)
    images = np.concatenate([images, np.full_like(images[:padding], np.nan)])
    labels = np.concatenate([labels, np.full(padding, -1)]).astype(np.int32)
    mask = np.arange(len(images)) < count
    made = [
        {name: x[i : i + 2] for name, x in (("images", images), ("mask", mask), ("labels", labels))}
        for i in range(0, len(images), 2)
    ]
    return lambda split, crop="adm": iter(made)
