"""A KL autoencoder as a folder that diffusers' AutoencoderKL.from_pretrained takes.

Tried with diffusers 0.42.1: latents and images equal to 1e-5.

config.json                            its arguments
diffusion_pytorch_model.safetensors    its state dict
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn
from safetensors import SafetensorError

from vqlab.export.files import require_free, save_arrays
from vqlab.export.kl_weights import kl_to_state
from vqlab.models.kl_autoencoder import NORM_GROUPS, KLDecoder, KLEncoder

WEIGHTS_FILE, CONFIG_FILE = "diffusion_pytorch_model.safetensors", "config.json"
# Of images; diffusers only looks at it for tiles.
SAMPLE_SIZE = 256


def save_diffusers(
    path: str | Path, autoencoder: nn.Module, params: Mapping[str, Any], scaling_factor: float = 1.0
) -> Path:
    """Writes the folder: a new or empty one, or one that this wrote, which is replaced.

    Args:
      path: the folder.
      autoencoder: a `Tokenizer` with `KLEncoder`, `GaussianBottleneck` and `KLDecoder`.
      params: its parameters.
      scaling_factor: what diffusers' pipelines multiply latents by.

    Raises:
      ValueError: a model that AutoencoderKL does not cover, or a folder that cannot be written.
    """
    path = Path(path).expanduser()
    config = diffusers_config(autoencoder, scaling_factor)
    require_free(path, WEIGHTS_FILE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        state = kl_to_state(params, naming="diffusers")
        save_arrays(path / WEIGHTS_FILE, state, metadata={"format": "pt"})
        (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    return path


def diffusers_config(autoencoder: nn.Module, scaling_factor: float = 1.0) -> dict[str, Any]:
    """The arguments of the AutoencoderKL that is the same network.

    It has one list of widths, one residual block more in the decoder's stages than in the
    encoder's, and attention in the middle of both.

    Raises:
      ValueError: for a network that it cannot be.
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    _check(encoder, decoder)
    last = len(encoder.widths) - 1
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(encoder.widths),
        "down_block_types": [
            _block_type("DownEncoderBlock2D", stage in encoder.attention_stages)
            for stage in range(last + 1)
        ],
        "in_channels": 3,
        "latent_channels": autoencoder.quantizer.latent_channels,
        "layers_per_block": encoder.depth,
        "mid_block_add_attention": True,
        "norm_num_groups": NORM_GROUPS,
        "out_channels": 3,
        "sample_size": SAMPLE_SIZE,
        "scaling_factor": scaling_factor,
        # In the order in which they run: the lowest resolution first.
        "up_block_types": [
            _block_type("UpDecoderBlock2D", stage in decoder.attention_stages)
            for stage in reversed(range(last + 1))
        ],
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    }


def _block_type(name: str, has_attention: bool) -> str:
    return f"Attn{name}" if has_attention else name


def _check(encoder: nn.Module, decoder: nn.Module) -> None:
    if not isinstance(encoder, KLEncoder) or not isinstance(decoder, KLDecoder):
        raise ValueError(
            f"diffusers' AutoencoderKL has kl_encoder and kl_decoder, not "
            f"{type(encoder).__name__} and {type(decoder).__name__}"
        )
    if encoder.widths != decoder.widths:
        raise ValueError(
            f"diffusers' AutoencoderKL has the same widths on both sides, not "
            f"{encoder.widths} and {decoder.widths}"
        )
    if decoder.depth != encoder.depth + 1:
        raise ValueError(
            f"diffusers' AutoencoderKL has depth {encoder.depth + 1} in the decoder where the "
            f"encoder's is {encoder.depth}, not {decoder.depth}"
        )
