import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kl_vae_f16
from tests import tiny_kl
from vqlab import models
from vqlab.export.kl_weights import kl_from_state, kl_to_state, read_kl
from vqlab.export.package import abstract_variables
from vqlab.export.torch_weights import write_state_dict

torch = pytest.importorskip("torch")
torch_kl = pytest.importorskip("tests.torch_kl")

WIDTHS = (32, 32, 64)
SIZES = {"widths": WIDTHS, "decoder_depth": 2}

# LDM's names of the small autoencoder's tensors beside diffusers', written out by hand: three
# stages, the decoder's in the opposite order.
DIFFUSERS = {
    "encoder.norm_out": "encoder.conv_norm_out",
    "decoder.norm_out": "decoder.conv_norm_out",
    "encoder.mid.block_1": "encoder.mid_block.resnets.0",
    "encoder.mid.block_2": "encoder.mid_block.resnets.1",
    "encoder.mid.attn_1": "encoder.mid_block.attentions.0",
    "decoder.mid.block_1": "decoder.mid_block.resnets.0",
    "decoder.mid.block_2": "decoder.mid_block.resnets.1",
    "decoder.mid.attn_1": "decoder.mid_block.attentions.0",
    "encoder.down.0.block.0": "encoder.down_blocks.0.resnets.0",
    "encoder.down.0.downsample.conv": "encoder.down_blocks.0.downsamplers.0.conv",
    "encoder.down.1.block.0": "encoder.down_blocks.1.resnets.0",
    "encoder.down.1.downsample.conv": "encoder.down_blocks.1.downsamplers.0.conv",
    "encoder.down.2.block.0": "encoder.down_blocks.2.resnets.0",
    "encoder.down.2.attn.0": "encoder.down_blocks.2.attentions.0",
    "decoder.up.2.block.0": "decoder.up_blocks.0.resnets.0",
    "decoder.up.2.block.1": "decoder.up_blocks.0.resnets.1",
    "decoder.up.2.attn.0": "decoder.up_blocks.0.attentions.0",
    "decoder.up.2.attn.1": "decoder.up_blocks.0.attentions.1",
    "decoder.up.2.upsample.conv": "decoder.up_blocks.0.upsamplers.0.conv",
    "decoder.up.1.block.0": "decoder.up_blocks.1.resnets.0",
    "decoder.up.1.block.1": "decoder.up_blocks.1.resnets.1",
    "decoder.up.1.upsample.conv": "decoder.up_blocks.1.upsamplers.0.conv",
    "decoder.up.0.block.0": "decoder.up_blocks.2.resnets.0",
    "decoder.up.0.block.1": "decoder.up_blocks.2.resnets.1",
}
LAYERS = {
    ".nin_shortcut.": ".conv_shortcut.",
    "attentions.{}.norm.": "attentions.{}.group_norm.",
    "attentions.{}.q.": "attentions.{}.to_q.",
    "attentions.{}.k.": "attentions.{}.to_k.",
    "attentions.{}.v.": "attentions.{}.to_v.",
    "attentions.{}.proj_out.": "attentions.{}.to_out.0.",
}


def diffusers_state(state):
    """An LDM state dict of the small autoencoder as diffusers would save it."""
    renamed = {}
    for name, value in state.items():
        for ldm, diffusers in DIFFUSERS.items():
            if name.startswith(ldm + "."):
                name = diffusers + name.removeprefix(ldm)
        for ldm, diffusers in LAYERS.items():
            for i in "01":
                name = name.replace(ldm.format(i), diffusers.format(i))
        if ".attentions." in name and value.ndim == 4:
            value = value[:, :, 0, 0]
        renamed[name] = value
    return renamed


def old_diffusers_state(state):
    """As diffusers before 0.15 saved it."""
    layers = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in state.items():
        for new, old in layers.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    return renamed


@pytest.fixture(scope="module")
def reference():
    """The small autoencoder in PyTorch."""
    return torch_kl.randomised(torch_kl.Autoencoder(WIDTHS, 4, 1, decoder_attention=True))


@pytest.fixture(scope="module")
def state(reference):
    return {name: value.numpy() for name, value in reference.state_dict().items()}


@pytest.fixture(scope="module")
def template():
    return abstract_variables(tiny_kl.autoencoder(**SIZES, decoder_attention=True))["params"]


def to_torch(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def from_torch(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def test_every_number_equals_the_pytorch_network(reference, state, template):
    variables = {"params": kl_from_state(state, template)}
    model = tiny_kl.autoencoder(**SIZES, decoder_attention=True)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (2, 24, 16, 3)), jnp.float32)
    encode = jax.jit(functools.partial(model.apply, method="encode_unquantized"))
    moments = encode(variables, images)
    expected = from_torch(reference.moments(to_torch(images)))
    assert expected.std() > 0.1
    np.testing.assert_allclose(moments, expected, atol=2e-5)
    latents = jnp.asarray(rng.standard_normal((2, 6, 4, 4)), jnp.float32)
    decoded = jax.jit(functools.partial(model.apply, method="decode"))(variables, latents)
    expected = from_torch(reference.decode(to_torch(latents)))
    assert expected.std() > 0.1
    np.testing.assert_allclose(decoded, expected, atol=2e-5)


@pytest.mark.parametrize(("argument", "attention"), [("", False), ("ldm", True)])
def test_full_size_has_the_pytorch_networks_names_shapes_and_count(argument, attention):
    model = models.build(kl_vae_f16.get_config(argument).model)
    params = abstract_variables(model)["params"]
    with torch.device("meta"):
        reference = torch_kl.Autoencoder((128, 128, 256, 256, 512), 16, 2, attention)
    expected = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
    assert {name: value.shape for name, value in kl_to_state(blank).items()} == expected


def test_all_namings_hold_the_same_parameters(state, template):
    params = kl_from_state(state, template)
    diffusers = diffusers_state(state)
    for other in (diffusers, old_diffusers_state(diffusers)):
        jax.tree.map(np.testing.assert_array_equal, kl_from_state(other, template), params)
    for naming, expected in (("ldm", state), ("diffusers", diffusers)):
        written = kl_to_state(params, naming=naming)
        assert written.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(written[name], value)


def test_files_are_read_and_a_training_checkpoints_losses_left_out(state, template, tmp_path):
    model = tiny_kl.autoencoder(**SIZES, decoder_attention=True)
    write_state_dict(tmp_path / "kl.safetensors", state)
    params = read_kl(tmp_path / "kl.safetensors", model)
    jax.tree.map(np.testing.assert_array_equal, params, kl_from_state(state, template))
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    tensors["loss.discriminator.main.0.weight"] = torch.zeros(3)
    torch.save({"model": tensors}, tmp_path / "kl16.ckpt")
    jax.tree.map(np.testing.assert_array_equal, read_kl(tmp_path / "kl16.ckpt", model), params)
    # As save_pretrained of diffusers, whose config the model stands for.
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_text("{}")
    write_state_dict(vae / "diffusion_pytorch_model.safetensors", diffusers_state(state))
    jax.tree.map(np.testing.assert_array_equal, read_kl(vae, model), params)
    broken = dict(state) | {"quant_conv.bias": np.full(8, np.nan, np.float32)}
    with pytest.raises(ValueError, match="KL autoencoder has NaN or infinite weights: quant_c"):
        kl_from_state(broken, template)
    with pytest.raises(ValueError, match="needs weights in floats: quant_conv.bias is int8$"):
        kl_from_state(broken | {"quant_conv.bias": np.ones(8, np.int8)}, template)


def test_the_decoders_attention_tells_ldm_from_mar(state, tmp_path):
    write_state_dict(tmp_path / "ldm.safetensors", state)
    with pytest.raises(ValueError, match=r"ldm.safetensors: .*unexpected: decoder.up.2.attn.0.k"):
        read_kl(
            tmp_path / "ldm.safetensors",
            tiny_kl.autoencoder(**SIZES),
        )


def test_what_does_not_fit_is_listed_in_one_line(state, template):
    broken = dict(state) | {"extra": np.zeros(1), "quant_conv.bias": np.zeros(7)}
    del broken["decoder.up.0.block.1.conv2.bias"]
    with pytest.raises(ValueError) as error:
        kl_from_state(broken, template)
    assert str(error.value) == (
        "the state dict does not fit the KL autoencoder: missing: decoder.up.0.block.1.conv2.bias;"
        " unexpected: extra; wrong shape: quant_conv.bias (7,) instead of (8,)"
    )


def test_names_of_neither_kind_are_refused(template):
    with pytest.raises(ValueError, match="no KL autoencoder: neither names like encoder.down.0"):
        kl_from_state({"features.0.weight": np.zeros(1)}, template)
    with pytest.raises(ValueError, match="unknown naming 'keras'; choose from ldm, diffusers"):
        kl_to_state({}, naming="keras")
    with pytest.raises(ValueError, match="no tensor for 'encoder/stage0/glu/kernel'"):
        kl_to_state({"encoder": {"stage0": {"glu": {"kernel": np.zeros((1, 1, 1, 1))}}}})
