import pytest

from configs import kl_vae_f16, mgvq_f16, semanticist_l
from tests import tiny
from vqlab import models
from vqlab.models.dtypes import describe_dtypes, with_dtype


@pytest.mark.parametrize("config", [kl_vae_f16, mgvq_f16, semanticist_l])
def test_every_part_of_a_published_model_takes_the_dtype(config):
    node = config.get_config().model.to_dict()
    assert node["encoder"]["dtype"] == node["decoder"]["dtype"] == "bfloat16"
    changed = with_dtype(node, "float32")
    assert describe_dtypes(changed) == "float32"
    model = models.build(changed)
    assert model.encoder.dtype == model.decoder.dtype == "float32"
    assert describe_dtypes(with_dtype(node, "bfloat16")) == "bfloat16"
    # Nothing else changes.
    for side in ("encoder", "decoder"):
        changed[side]["dtype"] = "bfloat16"
    assert changed == node
    assert with_dtype(node, "config") == node


def test_a_part_that_does_not_say_computes_in_float32():
    node = tiny.tokenizer_node()
    del node["decoder"]["dtype"]
    assert describe_dtypes(node) == "float32"
    assert describe_dtypes(with_dtype(node, "bfloat16")) == "bfloat16"
    node["encoder"]["dtype"] = "bfloat16"
    assert describe_dtypes(node) == "bfloat16 and float32"
    assert "dtype" not in with_dtype(node, "bfloat16")["quantizer"]


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="dtype='int8' is unknown; choose from float32, bfloat16"):
        with_dtype(tiny.tokenizer_node(), "int8")
