import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import _mgvq
from tests import tiny
from tests.filled import filled
from tests.parity.official import load, official_state, tokenizer_node
from vqlab.export.torch_names import official_names, official_shape
from vqlab.export.torch_weights import from_torch_state, to_torch_state
from vqlab.models import build

GOLDEN = Path(__file__).parent.parent / "golden"


def template(model):
    side = model.stride
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


@pytest.fixture(scope="module")
def golden():
    """(official state dict, template) of the small f16 tokenizer."""
    arrays, config = load(GOLDEN / "mgvq_tiny_f16.npz")
    return official_state(arrays), template(build(tokenizer_node(config)))


@pytest.mark.parametrize("variant", ["f8", "f16", "f32"])
@pytest.mark.parametrize("groups", [4, 8])
def test_published_sizes_have_the_official_names_shapes_and_counts(variant, groups):
    stored = json.loads((GOLDEN / f"mgvq_official_{variant}_g{groups}.json").read_text())
    leaves = flatten_dict(template(build(_mgvq.model(variant, groups))), sep="/")
    names = official_names(leaves)
    ours = {names[path]: official_shape(path, leaf.shape) for path, leaf in leaves.items()}
    assert len(ours) == len(leaves)
    assert ours == {name: tuple(shape) for name, shape, *_ in stored["state_dict"]}

    def count(prefix):
        return sum(leaf.size for path, leaf in leaves.items() if path.startswith(prefix))

    counts = {name: count(f"params/{name}/") for name in stored["params"] if name != "total"}
    assert counts | {"total": count("params/")} == stored["params"]


@pytest.mark.parametrize("file", ["mgvq_tiny_f8.npz", "mgvq_tiny_f16.npz", "mgvq_tiny_f32.npz"])
def test_official_state_round_trips_bit_for_bit(file):
    arrays, config = load(GOLDEN / file)
    state = official_state(arrays)
    params, variables = from_torch_state(state, template(build(tokenizer_node(config))))
    again = to_torch_state(params, variables)
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape, name
        np.testing.assert_array_equal(again[name], array)


def test_fresh_parameters_round_trip_bit_for_bit():
    model = tiny.tokenizer()
    fresh = filled(model.init, jnp.zeros((1, 8, 8, 3)))
    collections = {name: tree for name, tree in fresh.items() if name != "params"}
    state = to_torch_state(fresh["params"], collections)
    assert not state["quantize.codebook_used"].any()  # empty places are the released code's zeros
    params, again = from_torch_state(state, template(model))
    assert jax.tree.all(jax.tree.map(np.array_equal, params, fresh["params"]))
    assert jax.tree.all(jax.tree.map(np.array_equal, again["batch_stats"], fresh["batch_stats"]))


def test_everything_that_does_not_fit_is_listed_at_once(golden):
    state, shapes = golden
    state = dict(state)
    del state["quant_conv.bias"], state["decoder.project_in.main.conv.bias"]
    state["loss.logvar"] = np.zeros(1)
    state["post_quant_conv.bias"] = np.zeros(7)
    with pytest.raises(ValueError) as caught:
        from_torch_state(state, shapes)
    message = str(caught.value)
    assert "missing: decoder.project_in.main.conv.bias, quant_conv.bias" in message
    assert "unexpected: loss.logvar" in message
    assert "post_quant_conv.bias (7,) instead of (32,)" in message
    assert "\n" not in message


def test_a_path_without_official_name_is_refused():
    with pytest.raises(ValueError, match="no tensor for 'params/encoder/extra/kernel'"):
        official_names(["params/encoder/extra/kernel"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "the model has NaN or infinite weights: encoder.project_in.conv.conv.bias$"),
        (-np.inf, "the model has NaN or infinite weights: encoder.project_in.conv.conv.bias$"),
        (np.int8(3), "needs weights in floats: encoder.project_in.conv.conv.bias is int8$"),
        (np.complex64(1), "in floats: encoder.project_in.conv.conv.bias is complex64$"),
    ],
)
def test_what_are_no_weights_is_refused_with_the_tensors_name(golden, value, message):
    state, shapes = golden
    name = "encoder.project_in.conv.conv.bias"
    bias = state[name].astype(np.asarray(value).dtype)
    bias[1] = value
    with pytest.raises(ValueError, match=message):
        from_torch_state(state | {name: bias}, shapes)
    # Counts are integers, or floats as in the released code.
    assert state["quantize.codebook_used"].dtype == np.float32
    assert {a.dtype.name for n, a in state.items() if n.endswith("_tracked")} <= {"int64"}
    from_torch_state(state, shapes)
