import json

import jax
import numpy as np
import pytest
from safetensors import safe_open

from tests import tiny, tiny_kl
from tests.filled import filled
from vqlab.export.diffusers_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    diffusers_config,
    save_diffusers,
)
from vqlab.export.kl_weights import read_kl

SIZES = {"widths": (32, 32, 64), "decoder_depth": 2}

# With which diffusers 0.42.1 made a network that took every tensor of the folder.
CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [32, 32, 64],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "scaling_factor": 0.5,
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


def test_the_folder_holds_the_arguments_and_every_parameter(tmp_path):
    model = tiny_kl.autoencoder(**SIZES, decoder_attention=True)
    params = filled(model.init, tiny.images(1, 16))["params"]
    for _ in range(2):  # its own folder is replaced
        save_diffusers(tmp_path / "vae", model, params, scaling_factor=0.5)
    assert json.loads((tmp_path / "vae" / CONFIG_FILE).read_text()) == CONFIG
    file = tmp_path / "vae" / WEIGHTS_FILE
    with safe_open(file, "np") as stored:
        assert stored.metadata() == {"format": "pt"}
        assert "decoder.up_blocks.0.attentions.1.to_out.0.weight" in stored.keys()
    jax.tree.map(np.testing.assert_array_equal, read_kl(file, model), params)


def test_other_files_are_not_mixed_with(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        save_diffusers(tmp_path, tiny_kl.autoencoder(**SIZES), {})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_kl.autoencoder(), "depth 2 in the decoder where the encoder's is 1, not 1"),
        (tiny.tokenizer(), "kl_encoder and kl_decoder, not ConvEncoder and ConvDecoder"),
        (
            tiny_kl.autoencoder(**SIZES).clone(decoder=tiny_kl.autoencoder().decoder),
            r"the same widths on both sides, not \(32, 32, 64\) and \(32, 64\)",
        ),
    ],
)
def test_what_diffusers_has_not_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        diffusers_config(model)
