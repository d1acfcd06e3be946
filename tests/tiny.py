"""The smallest real tokenizer: stride 8, 2 groups of 16 codewords, under a second to trace."""

import jax
import numpy as np

from tests.filled import filled
from vqlab import models


def tokenizer_node(**quantizer):
    """A config node of about 50,000 parameters that uses every kind of block and norm."""
    return {
        "name": "tokenizer",
        "encoder": {
            "name": "conv_encoder",
            "widths": (16, 16, 16, 32),
            "depths": (0, 1, 1, 1),
            "block_types": ("res", "res", "res", "evit_glu"),
            "norm": "rms_norm",
            "act": "silu",
            "latent_channels": 8,
            "dtype": "float32",
            "remat": False,
        },
        "quantizer": {
            "name": "grouped_quantizer",
            "num_groups": 2,
            "codebook_size": 16,
            "latent_channels": 8,
            **quantizer,
        },
        "decoder": {
            "name": "conv_decoder",
            "widths": (16, 16, 16, 32),
            "depths": (0, 1, 1, 1),
            "block_types": ("res", "res", "res", "evit_glu"),
            "norms": ("batch_norm", "batch_norm", "batch_norm", "rms_norm"),
            "acts": ("relu", "relu", "relu", "silu"),
            "dtype": "float32",
            "remat": False,
        },
    }


def tokenizer(**quantizer):
    """The module of `tokenizer_node`."""
    return models.build(tokenizer_node(**quantizer))


def discriminator():
    """A PatchGAN for 32-pixel images."""
    return models.build({"name": "patch_discriminator", "channels": 8, "num_layers": 2})


def images(batch_size=8, side=32, seed=0):
    """Smooth random images in [-1, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (batch_size, 4, 4, 3)).astype(np.float32)
    return jax.image.resize(coarse, (batch_size, side, side, 3), "bilinear")


def semanticist_node(**parts):
    """The smallest real Semanticist: 4 patches of 16-pixel images, 4 concepts of 4 numbers."""
    concepts = {"num_concepts": 4, "concept_dim": 4}
    transformer = {"patch_size": 8, "width": 16, "depth": 2, "num_heads": 2, "dtype": "float32"}
    node = {
        "name": "semanticist",
        "encoder": {"name": "concept_encoder", "image_size": 16, **transformer, **concepts},
        "decoder": {
            "name": "dit",
            "latent_size": 16,
            "in_channels": 3,
            "out_channels": 6,
            "repa_layer": 1,
            "repa_dim": 0,
            **transformer,
            **concepts,
        },
        "process": {"name": "ddpm"},
        "latent_space": {"name": "pixel_space"},
    }
    return node | parts


def semanticist(**parts):
    """(module, variables) with every parameter random, as after some training."""
    module = models.build(semanticist_node(**parts))
    return module, filled(module.init, images(1, 16))


def semanticist_config(**changes):
    """A whole training config of it, on the photographs."""
    from configs import semanticist_demo

    config = semanticist_demo.get_config("debug").unlock()
    config.model = semanticist_node()
    config.num_steps, config.image_size = 4, 16
    config.objective.nested_start = 2
    config.sampling.num_steps = 2
    config.mesh.update(data=2, fsdp=4)
    config.intervals.update(log=1, evaluate=0, checkpoint=2)
    for node in config.evals.values():
        node.update(image_size=16, batch_size=8, limit=16, tile_size=0)
    config.evals.probe.update(tile_size=16, limit=0)
    config.update(changes)
    return config.lock()


def config(**changes):
    """A whole training config: the tiny tokenizer and a discriminator on the photographs."""
    from configs import mgvq_f8

    config = mgvq_f8.get_config("debug").unlock()
    config.model = tokenizer_node(mask_range=(0.3, 0.3))
    config.discriminator = {"name": "patch_discriminator", "channels": 8, "num_layers": 2}
    config.image_size = config.evals.reconstruction.image_size = 32
    config.evals.reconstruction.num_images_kept = 2
    config.objective.adversarial_start = 1
    config.ema_decay = 0.9
    config.num_steps = 4
    config.mesh.update(data=2, fsdp=4)
    config.intervals.update(log=1, evaluate=0, checkpoint=2)
    config.update(changes)
    return config.lock()
