"""The smallest real KL autoencoder: stride 2, 4 latent channels, attention, a change of width."""

from vqlab import models


def node(*, widths=(32, 64), decoder_depth=1, decoder_attention=False):
    """A config node of about 400,000 parameters."""
    return {
        "name": "tokenizer",
        "encoder": {
            "name": "kl_encoder",
            "widths": widths,
            "depth": 1,
            "attention_stages": (len(widths) - 1,),
            "latent_channels": 8,
            "dtype": "float32",
            "remat": False,
        },
        "quantizer": {"name": "gaussian_bottleneck", "latent_channels": 4},
        "decoder": {
            "name": "kl_decoder",
            "widths": widths,
            "depth": decoder_depth,
            "attention_stages": (len(widths) - 1,) if decoder_attention else (),
            "dtype": "float32",
            "remat": False,
        },
    }


def autoencoder(**options):
    """The module of `node`."""
    return models.build(node(**options))
