"""TiTok's official names: every published tensor, in and out bit for bit, and what does not fit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import titok_b64, titok_l32, titok_s128
from tests.parity import titok as parity
from tests.parity.official import load, official_state
from tests.parity.pixel_tokenizer import pixel_node
from vqlab import models
from vqlab.export import titok_names
from vqlab.export.official import SCHEMES, scheme_of
from vqlab.export.package import abstract_variables

GOLDEN = Path(__file__).parent.parent / "golden"
SCHEME = SCHEMES["titok"]
VARIANTS = {"s128": titok_s128, "b64": titok_b64, "l32": titok_l32}
# Modules that only the second stage has.
PIXELS = ("pixel_quantize.", "pixel_decoder.")


@pytest.fixture(scope="module")
def arrays():
    """The released arrays of a small model, and the sizes."""
    stored, config = load(GOLDEN / "titok_tiny.npz")
    return stored, config["sizes"]


def official(params):
    """Official name -> shape of what the released state dict has for these parameters."""
    leaves = flatten_dict({"params": params}, sep="/")
    found = {}
    for path, name in titok_names.official_names(leaves).items():
        shape = leaves[path].shape
        layers = shape[0] if "{}" in name else 1
        shape = titok_names.official_shape(path, shape[1:] if "{}" in name else shape)
        found |= {name.replace("{}", str(i)): list(shape) for i in range(layers)}
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_models_have_exactly_these_tensors(variant):
    published = json.loads((GOLDEN / f"titok_official_{variant}.json").read_text())
    tensors = {name: shape for name, shape, *_ in published["state_dict"]}
    params = abstract_variables(models.build(VARIANTS[variant].get_config().model))["params"]
    assert official(params) == tensors
    pixels = params.pop("pixel_tokenizer")
    assert all(name.startswith(PIXELS) for name in tensors.keys() - official(params).keys())
    counts = [sum(np.prod(x.shape) for x in jax.tree.leaves(tree)) for tree in (params, pixels)]
    assert counts[0] == published["stage1_total"]
    assert sum(counts) == published["params"]["total"]


@pytest.mark.parametrize("stage", parity.STAGES)
def test_in_and_out_is_the_same_state_dict(arrays, stage):
    stored, sizes = arrays
    state = parity.stage_state(stored, stage)
    _, variables = parity.load(stored, sizes, stage)
    assert scheme_of(variables) == "titok"
    back = SCHEME.to_state(variables)
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)
    counted = variables["codebook_stats"]["quantizer"]
    assert not counted["usage_ema"].any() and (counted["recent_indices"] == -1).all()


def test_the_pixel_tokenizer_too():
    stored, config = load(GOLDEN / "titok_pixel_tokenizer.npz")
    state = official_state(stored)
    template = abstract_variables(models.build(pixel_node(config["sizes"])))
    assert scheme_of(template) == "titok"
    back = SCHEME.to_state(SCHEME.from_state(state, template))
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_weights_that_do_not_fit_are_named(arrays):
    stored, sizes = arrays

    def template(stage, **changes):
        return abstract_variables(models.build(parity.node(sizes | changes, stage)))

    def message(state, template):
        with pytest.raises(ValueError) as error:
            SCHEME.from_state(state, template)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    second = template("stage2")
    states = {stage: parity.stage_state(stored, stage) for stage in parity.STAGES}
    # The other reshape, of which only the decoder's head tells.
    assert "the weights are of the legacy form" in message(states["stage1"], template("nonlegacy"))
    assert "of the transposed form" in message(states["nonlegacy"], second)
    # Another size, and another stage.
    text = message(states["stage2"], template("stage1", latents=9, enc_layers=3))
    assert "latent_tokens (8, 40) instead of (9, 40)" in text
    assert "missing: encoder.transformer.2." in text and "unexpected: pixel_decoder." in text
    assert "missing: pixel_decoder." in message(states["stage1"], second)
    with pytest.raises(ValueError, match="has no tensor for 'params/encoder/other/kernel'"):
        titok_names.official_names([titok_names.LATENT_TOKENS, "params/encoder/other/kernel"])
