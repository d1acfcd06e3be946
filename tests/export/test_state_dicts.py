import json
import logging

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vqlab.export.state_dicts import read_state_dict
from vqlab.export.torch_weights import write_state_dict


@pytest.fixture(scope="module")
def state():
    """Floats, a count and an empty tensor."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((40, 30, 3, 3), np.float32),
        "norm.num_batches_tracked": np.asarray(7),
        "empty": np.zeros((0, 3), np.float32),
    }


def equal(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_every_tensor(state, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_state_dict(path, {f"module._orig_mod.{name}": value for name, value in state.items()})
    equal(read_state_dict(path), state)
    equal(read_state_dict(path.rename(tmp_path / f"LOUD{suffix.upper()}")), state)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("length", [0, 20, 5000])
def test_truncated_files_are_refused_in_one_line(state, tmp_path, suffix, length):
    path = tmp_path / f"weights{suffix}"
    write_state_dict(path, state)
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
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state_dict(tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"choose from \.safetensors, \.npz, \.pt, \.pth, \.ckpt"):
        write_state_dict(tmp_path / "weights.h5", {})


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
def test_a_folder_that_is_not_there_is_named(tmp_path, suffix):
    if suffix == "pt":
        pytest.importorskip("torch")
    with pytest.raises(ValueError, match=f"nowhere/weights.{suffix} cannot be written: "):
        write_state_dict(tmp_path / "nowhere" / f"weights.{suffix}", {"bias": np.zeros(1)})


@pytest.mark.parametrize("name", ["vgg.safetensors", "vgg.npz", "vgg.pth", "a.index.json"])
def test_what_was_not_downloaded_is_named(tmp_path, name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 335\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: a git-lfs pointer.*`git lfs pull`$"):
        read_state_dict(tmp_path / name)
    (tmp_path / name).write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ValueError, match="a web page, not the file"):
        read_state_dict(tmp_path / name)


def test_floats_become_float32(tmp_path):
    values = [0.5, -3.0]
    kinds = (np.float16, np.float64, ml_dtypes.bfloat16)
    save_file(
        {str(i): np.array(values, kind) for i, kind in enumerate(kinds)}, tmp_path / "w.safetensors"
    )
    for array in read_state_dict(tmp_path / "w.safetensors").values():
        assert array.dtype == np.float32 and array.tolist() == values
    write_state_dict(tmp_path / "w.npz", {"large": np.array([1e300])})
    assert read_state_dict(tmp_path / "w.npz")["large"] == np.inf  # which every model refuses


def test_floats_of_8_bits_are_refused_with_the_tensors_name(tmp_path):
    array = np.zeros(3, ml_dtypes.float8_e4m3fn)
    save_file({"conv.weight": array}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors: conv.weight is F8_E4M3; give weights in"):
        read_state_dict(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_nan_is_not_written(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    with pytest.raises(ValueError, match="not written, has NaN or infinite weights: b, c$"):
        write_state_dict(
            path, {"a": np.ones(2), "b": np.array([1, np.nan]), "c": np.array([-np.inf])}
        )
    assert not path.exists()


def shards(folder, state, name):
    """Two files and their index, as of save_pretrained."""
    places = {tensor: f"{name}-{i % 2}.safetensors" for i, tensor in enumerate(state)}
    for file in set(places.values()):
        save_file({n: np.asarray(state[n]) for n in state if places[n] == file}, folder / file)
    index = folder / f"{name}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_sharded_files_are_read_through_their_index_or_folder(state, tmp_path):
    index, places = shards(tmp_path, state, "diffusion_pytorch_model")
    equal(read_state_dict(index), state)
    equal(read_state_dict(tmp_path), state)
    for wrong, message in (
        ({"extra": places["empty"]}, "extra is not in diffusion_pytorch_model-0.safetensors"),
        ({"empty": "../w.safetensors"}, "names '../w.safetensors', which is no file beside it"),
        ({"empty": "gone.safetensors"}, "names 'gone.safetensors', which is no file beside it"),
    ):
        index.write_text(json.dumps({"weight_map": places | wrong}))
        with pytest.raises(ValueError, match=message):
            read_state_dict(index)
    index.write_text("{}")
    with pytest.raises(ValueError, match="damaged or no index of weights"):
        read_state_dict(index)


def test_a_folder_without_weights_names_those_that_have_some(state, tmp_path):
    (tmp_path / "vae").mkdir()
    with pytest.raises(ValueError, match=r"a folder without diffusion_.*\.bin$"):
        read_state_dict(tmp_path)
    write_state_dict(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", state)
    with pytest.raises(ValueError, match="its folders with weights: vae$"):
        read_state_dict(tmp_path)
    equal(read_state_dict(tmp_path / "vae"), state)


def test_one_line_says_which_part_was_read(tmp_path, caplog, monkeypatch):
    path = tmp_path / "w.npz"
    np.savez(path, **{"ema_model.a": np.ones(1), "online_model.a": np.zeros(1)})
    monkeypatch.setattr(logging.getLogger("vqlab"), "propagate", True)
    with caplog.at_level(logging.INFO, "vqlab"):
        assert read_state_dict(path) == {"a": 1}
        assert read_state_dict(path, "model") == {"a": 0}
    assert set(caplog.messages) == {
        f"{path}: read are the averaged weights 'ema_model'; not 'online_model'",
        f"{path}: read are the plain weights 'online_model'; not 'ema_model'",
    }


def test_wrappers_are_left_out_of_names_but_never_merge_two(tmp_path):
    path = tmp_path / "weights.npz"
    write_state_dict(path, {"dit._orig_mod.blocks.0.module.bias": np.ones(1)})
    assert list(read_state_dict(path)) == ["dit.blocks.0.bias"]
    write_state_dict(path, {"module.bias": np.ones(1), "bias": np.zeros(1)})
    with pytest.raises(ValueError, match="two tensors have one name"):
        read_state_dict(path)
