import importlib.util
import json
import pickle
import sys
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
from vqlab.export.torch_weights import (
    from_torch_state,
    read_state_dict,
    select_state,
    to_torch_state,
    write_state_dict,
)
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


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_every_tensor(golden, tmp_path, suffix):
    state, _ = golden
    path = tmp_path / f"weights{suffix}"
    write_state_dict(path, {f"module._orig_mod.{name}": value for name, value in state.items()})
    again = read_state_dict(path)
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape, name
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("length", [0, 20, 5000])
def test_truncated_files_are_refused_in_one_line(golden, tmp_path, suffix, length):
    path = tmp_path / f"weights{suffix}"
    write_state_dict(path, golden[0])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="damaged or no") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown kind of weights file; choose from \.safetensors"
    ):
        read_state_dict(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="no such weights file"):
        read_state_dict(tmp_path / "weights.npz")
    write_state_dict(tmp_path / "empty.safetensors", {})
    with pytest.raises(ValueError, match="holds no tensors"):
        read_state_dict(tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"choose from \.safetensors, \.npz, \.pt, \.pth, \.ckpt"):
        write_state_dict(tmp_path / "weights.h5", {})
    for name in ("weights.npz", "weights.safetensors", "weights.pt"):
        with pytest.raises(ValueError, match=f"nowhere/{name} cannot be written: "):
            write_state_dict(tmp_path / "nowhere" / name, {"bias": np.zeros(1)})


def test_a_pytorch_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"needs torch: install it .* or convert the file"):
        read_state_dict(path)


def test_the_state_is_found_in_a_training_checkpoint():
    tensor = np.zeros(1)
    assert select_state({"a": tensor}, np.ndarray) == {"a": tensor}
    nested = {"optimizer": {"lr": 1.0}, "model": {"a": tensor}, "steps": 3}
    assert select_state(nested, np.ndarray) == {"a": tensor}
    assert list(select_state(nested | {"ema": {"b": tensor}}, np.ndarray)) == ["b"]
    assert select_state({"optimizer": {"a": tensor}}, np.ndarray) == {}
    assert select_state([tensor], np.ndarray) == {}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_pytorch_checkpoints_are_read(golden, tmp_path):
    import torch

    state, _ = golden
    tensors = {f"module.{name}": torch.from_numpy(array) for name, array in state.items()}
    torch.save({"model": tensors, "steps": 5}, tmp_path / "weights.pt")
    again = read_state_dict(tmp_path / "weights.pt")
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], array) for name, array in state.items())
    (tmp_path / "cut.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint"):
        read_state_dict(tmp_path / "cut.pt")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_stored_code_is_refused_in_one_line_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    ran = tmp_path / "ran"
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"weight": Touch(ran)}, protocol=2))
    torch.save({"weight": Touch(ran)}, tmp_path / "zipped.pkl")
    (tmp_path / "other.pkl").write_bytes(b"no pickle")
    for name in ("plain.pkl", "zipped.pkl", "other.pkl"):
        with pytest.raises(ValueError, match="stored objects could run code") as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not ran.exists()
    pickle.loads((tmp_path / "plain.pkl").read_bytes())
    assert ran.exists()  # so the file would have done harm


def test_wrappers_are_left_out_of_names_but_never_merge_two(tmp_path):
    path = tmp_path / "weights.npz"
    write_state_dict(path, {"dit._orig_mod.blocks.0.module.bias": np.ones(1)})
    assert list(read_state_dict(path)) == ["dit.blocks.0.bias"]
    write_state_dict(path, {"module.bias": np.ones(1), "bias": np.zeros(1)})
    with pytest.raises(ValueError, match="two tensors have one name"):
        read_state_dict(path)
