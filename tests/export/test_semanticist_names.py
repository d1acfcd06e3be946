import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs._semanticist import DECODERS
from tests.filled import filled
from tests.parity.dit import decoder
from tests.parity.official import load, official_state
from tests.parity.vit import encoder
from vqlab.export.semanticist_names import official_names, official_shape
from vqlab.export.state_dicts import read_state_dict
from vqlab.export.torch_weights import from_torch_state, to_torch_state
from vqlab.models.dit import DiT
from vqlab.models.vit import ConceptEncoder
from vqlab.ops.position import sincos_table

GOLDEN = Path(__file__).parent.parent / "golden"
PUBLISHED = json.loads((GOLDEN / "semanticist_official_sizes.json").read_text())


def encoder_shapes(model):
    images = jnp.zeros((1, model.image_size, model.image_size, 3))
    return {"params": {"encoder": jax.eval_shape(model.init, jax.random.key(0), images)["params"]}}


def decoder_shapes(model):
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jnp.zeros((1, model.latent_size, model.latent_size, model.in_channels)),
        jnp.zeros(1),
        jnp.zeros((1, model.num_concepts, model.concept_dim)),
    )
    return {name: {"decoder": tree} for name, tree in shapes.items()}


def published_decoder(size, repa_dim):
    depth, width, num_heads = DECODERS[size]
    return DiT(
        latent_size=16,
        in_channels=16,
        out_channels=32,
        patch_size=2,
        width=width,
        depth=depth,
        num_heads=num_heads,
        num_concepts=256,
        concept_dim=16,
        repa_dim=repa_dim,
    )


def official(template):
    """Official name -> shape."""
    leaves = flatten_dict(template, sep="/")
    shapes = {}
    for path, name in official_names(leaves).items():
        shape, numbers = leaves[path].shape, [""]
        if "{}" in name:
            numbers, shape = range(shape[0]), shape[1:]
        for number in numbers:
            shapes[name.replace("{}", str(number))] = official_shape(path, shape)
    return shapes


def count(template):
    return sum(leaf.size for leaf in jax.tree.leaves(template))


def test_the_published_encoder_has_the_official_names_shapes_and_counts():
    depth, width, num_heads = DECODERS["B"]
    model = ConceptEncoder(
        image_size=256,
        patch_size=16,
        width=width,
        depth=depth,
        num_heads=num_heads,
        num_concepts=256,
        concept_dim=16,
    )
    template = encoder_shapes(model)
    stored = PUBLISHED["ViT-B/16 encoder, 256 slots, 256px"]
    expected = {f"encoder.{name}": tuple(shape) for name, shape in stored["names"]}
    expected |= {"encoder2slot.weight": (16, 768), "encoder2slot.bias": (16,)}
    assert official(template) == expected
    assert count(template) == stored["total"] + PUBLISHED["encoder2slot"]["total"]
    assert count(template["params"]["encoder"]["blocks"]) == stored["blocks"]


@pytest.mark.parametrize("size", ["B", "L", "XL"])
@pytest.mark.parametrize("repa", [True, False])
def test_published_decoders_have_the_official_names_shapes_and_counts(size, repa):
    template = decoder_shapes(published_decoder(size, 768 if repa else 0))
    stored = PUBLISHED[f"DiT-{size}-2 c16 256x16 repa={repa}"]
    if stored["names"]:
        assert official(template) == {f"dit.{name}": tuple(s) for name, s in stored["names"]}
    params = template["params"]["decoder"]
    assert count(template) == stored["total"]
    assert count(params) == stored["trainable"]
    parts = {
        "blocks": ("blocks", "modulation"),
        "final_layer": ("final_linear", "final_modulation"),
        "t_embedder": ("time_fc1", "time_fc2"),
        "x_embedder": ("patch_embed",),
        "cond_embedder": ("concept_embed",),
        "null_cond": ("null_concepts",),
        "projector": ("repa_fc1", "repa_fc2", "repa_fc3") if repa else (),
    }
    for name, modules in parts.items():
        assert sum(count(params[module]) for module in modules) == stored[name], name
    assert count(template["constants"]) == stored["pos_embed"]


@pytest.fixture(scope="module")
def whole():
    """(official state dict, template) of a small encoder and decoder together."""
    arrays, config = load(GOLDEN / "semanticist_vit_tiny.npz")
    state, template = official_state(arrays), encoder_shapes(encoder(config, is_causal=True))
    arrays, config = load(GOLDEN / "semanticist_dit_tiny_c4.npz")
    state |= {f"dit.{name}": array for name, array in official_state(arrays).items()}
    rest = decoder_shapes(decoder(config))
    params = template["params"] | rest["params"]
    return state, {"params": params, "constants": rest["constants"]}


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in b
    )


def test_official_state_round_trips_bit_for_bit(whole):
    state, template = whole
    params, variables = from_torch_state(state, template)
    assert equal(to_torch_state(params, variables), state)
    kernel = params["decoder"]["blocks"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel[1], state["dit.blocks.1.mlp.fc1.weight"].T)


def test_fresh_parameters_round_trip_bit_for_bit(whole):
    fresh = filled(lambda _: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), whole[1]))
    params, variables = from_torch_state(
        to_torch_state(fresh["params"], {"constants": fresh["constants"]}), whole[1]
    )
    jax.tree.map(np.testing.assert_array_equal, {"params": params, **variables}, dict(fresh))


def test_frozen_networks_of_a_whole_checkpoint_are_left_out(whole):
    state, template = whole
    extra = {
        "vae.decoder.conv_in.weight": np.zeros(2),
        "repa_encoder.blocks.0.norm1.weight": np.zeros(2),
        "repa_model.cls_token": np.zeros(2),
        "nested_sampler.arange": np.arange(8),
    }
    params, variables = from_torch_state(state | extra, template)
    assert equal(to_torch_state(params, variables), state)
    for name in ("vae2.weight", "repa.weight", "nested_sampler.other", "encoder.extra"):
        with pytest.raises(ValueError, match=f"unexpected: {name}$"):
            from_torch_state(state | {name: np.zeros(2)}, template)


def test_averaged_weights_lack_the_fixed_table(whole):
    state, template = whole
    state = {name: array for name, array in state.items() if name != "dit.pos_embed"}
    _, variables = from_torch_state(state, template)
    table = variables["constants"]["decoder"]["position_table"]
    np.testing.assert_array_equal(table, sincos_table(4, 4, 64))


def test_the_projector_is_dropped_with_a_line_where_the_model_has_none(whole, caplog, monkeypatch):
    state, template = whole
    decoder_params = template["params"]["decoder"]
    params = {k: v for k, v in decoder_params.items() if not k.startswith("repa_")}
    without = template | {"params": template["params"] | {"decoder": params}}
    monkeypatch.setattr(logging.getLogger("vqlab"), "propagate", True)
    with caplog.at_level(logging.INFO, "vqlab"):
        converted, _ = from_torch_state(state, without)
    assert "left out, as the model has repa_dim=0: dit.projector.0.weight" in caplog.text
    assert converted["decoder"].keys() == params.keys()
    # A model that has one needs it.
    lacking = {name: a for name, a in state.items() if not name.startswith("dit.projector.0")}
    with pytest.raises(ValueError, match=r"missing: dit\.projector\.0\.bias, dit\.projector\.0\.w"):
        from_torch_state(lacking, template)


def test_everything_that_does_not_fit_is_listed_at_once(whole):
    state, template = whole
    state = dict(state)
    del state["encoder.blocks.1.attn.qkv.bias"], state["dit.null_cond"]
    state["encoder.blocks.3.norm1.weight"] = np.zeros(64)
    state["dit.blocks.2.mlp.fc1.weight"] = np.zeros((64, 256))
    with pytest.raises(ValueError) as caught:
        from_torch_state(state, template)
    message = str(caught.value)
    assert "missing: dit.null_cond, encoder.blocks.1.attn.qkv.bias;" in message
    assert "unexpected: encoder.blocks.3.norm1.weight;" in message
    assert "dit.blocks.2.mlp.fc1.weight (64, 256) instead of (256, 64)" in message
    assert "\n" not in message


def test_a_path_without_official_name_is_refused():
    with pytest.raises(ValueError, match="no tensor for 'params/decoder/extra/kernel'"):
        official_names(["params/decoder/extra/kernel"])


def test_files_of_averaged_weights_are_read(whole, tmp_path):
    """An ordered dict of tensors, with the prefixes of wrapped modules at any depth of a name."""
    torch = pytest.importorskip("torch")
    state, template = whole
    ema = {}
    for name, array in state.items():
        if name != "dit.pos_embed":
            name = name.replace("dit.", "dit._orig_mod.").replace("encoder.", "module.encoder.")
            ema[name] = torch.from_numpy(array)
    torch.save(ema, tmp_path / "custom_checkpoint_1.pkl")
    params, _ = from_torch_state(read_state_dict(tmp_path / "custom_checkpoint_1.pkl"), template)
    expected, _ = from_torch_state(state, template)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
