import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import pytest

from configs import _mgvq
from tests import tiny
from vqlab.models import MODULES, build
from vqlab.models.tokenizer import Tokenizer


def test_every_module_is_registered_in_snake_case():
    def letters(name):
        return name.replace("_", "").lower()

    assert {"conv_encoder", "grouped_quantizer", "semanticist", "tokenizer"} <= set(MODULES)
    for name, part in MODULES.items():
        # A module, or a plain dataclass that a jitted function can close over.
        assert issubclass(part, nn.Module) or part.__dataclass_params__.frozen, name
        assert name == name.lower() and letters(name) == letters(part.__name__)


def test_config_dict_dict_and_json_build_the_same_module():
    node = tiny.tokenizer_node(mask_probs=(0.0, 0.5))
    model = build(node)
    assert isinstance(model, Tokenizer)
    assert model == build(json.loads(json.dumps(node)))
    assert model == build(ml_collections.ConfigDict(node))
    assert isinstance(model.encoder.widths, tuple)
    hash(model)  # jit takes modules as static arguments


def test_building_leaves_the_config_as_it_was():
    node = tiny.tokenizer_node()
    build(node)
    assert node == tiny.tokenizer_node()


@pytest.mark.parametrize("variant, stride", [("f8", 8), ("f16", 16), ("f32", 32)])
@pytest.mark.parametrize("groups, size", [(4, 8192), (8, 2048)])
def test_published_variants(variant, stride, groups, size):
    model = build(_mgvq.model(variant, groups))
    images = jax.ShapeDtypeStruct((1, 2 * stride, stride, 3), jnp.float32)
    result, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert result.quantized.indices.shape == (1, 2, 1, groups)
    assert variables["params"]["quantizer"]["codebook"].shape == (groups, size, 32 // groups)


@pytest.mark.parametrize(
    "node, message",
    [
        ({"name": "vq"}, r"unknown module 'vq'; choose from autoencoder_space, .*tokenizer"),
        ({}, "unknown module None"),
        (
            {"name": "patch_discriminator", "layers": 3},
            r"patch_discriminator has no arguments \['layers'\]; choose from \['channels'",
        ),
        ({"name": "tokenizer"}, r"lacks the arguments \['decoder', 'encoder', 'quantizer'\]"),
    ],
)
def test_wrong_nodes_are_refused(node, message):
    with pytest.raises(ValueError, match=message):
        build(node)


def test_unpublished_variants_are_refused():
    with pytest.raises(ValueError, match="unknown variant 'f4'"):
        _mgvq.model("f4", 4)
    with pytest.raises(ValueError, match="no published model has 3 groups"):
        _mgvq.model("f8", 3)
