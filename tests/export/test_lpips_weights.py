import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from vqlab.export import lpips_weights
from vqlab.models.pretrained import lpips


@pytest.fixture(scope="module")
def official():
    """Random tensors with the names and shapes of the official files, one value a tensor."""
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    vgg, in_channels = {}, 3
    for n, (position, width) in enumerate(zip(positions, widths, strict=True)):
        vgg[f"features.{position}.weight"] = np.full((width, in_channels, 3, 3), n, np.float32)
        vgg[f"features.{position}.bias"] = np.full(width, n + 0.5, np.float32)
        in_channels = width
    heads = {
        f"lin{i}.model.1.weight": np.full((1, c, 1, 1), 100 + i, np.float32)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    return vgg, heads


def read(folder, state):
    """What is read from a file of these tensors."""
    save_file(state, folder / "state.safetensors")
    return lpips_weights.read_lpips(str(folder / "state.safetensors"))


def test_every_tensor_lands_in_its_place(official, tmp_path):
    vgg, heads = official
    params = read(tmp_path, vgg | heads)
    assert jax.tree.map(np.shape, params) == lpips.param_shapes()
    order = [f"conv{s}_{i}" for s, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    assert [params["vgg"][name]["kernel"].flat[0] for name in order] == list(range(13))
    assert [params["vgg"][name]["bias"][0] for name in order] == [n + 0.5 for n in range(13)]
    assert [params["heads"][f"relu{s}"][0] for s in range(1, 6)] == [100, 101, 102, 103, 104]


def test_kernels_are_transposed_from_oihw(official, tmp_path):
    vgg, heads = official
    kernel = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    params = read(tmp_path, vgg | heads | {"features.0.weight": kernel})
    assert params["vgg"]["conv1_1"]["kernel"][2, 0, 1, 7] == kernel[7, 1, 2, 0]


def test_two_files_and_the_converted_one_read_the_same(official, tmp_path):
    vgg, heads = official
    classifier = {"classifier.0.weight": np.zeros((2, 2)), "classifier.6.bias": np.zeros(2)}
    save_file(vgg | classifier, tmp_path / "vgg16.safetensors")
    save_file(heads, tmp_path / "vgg.safetensors")
    params = lpips_weights.read_lpips(f"{tmp_path}/vgg16.safetensors, {tmp_path}/vgg.safetensors")
    lpips_weights.save_lpips(tmp_path / "lpips.safetensors", params)
    again = lpips_weights.read_lpips(str(tmp_path / "lpips.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_writing_gives_each_official_tensor_once(official, tmp_path):
    vgg, heads = official
    state_dict = lpips_weights.to_state_dict(read(tmp_path, vgg | heads))
    assert state_dict.keys() == (vgg | heads).keys()
    for name, value in (vgg | heads).items():
        np.testing.assert_array_equal(state_dict[name], value)


def test_the_state_dict_of_a_whole_lpips_module_is_read(official, tmp_path):
    vgg, heads = official
    stage = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5}
    whole = {"scaling_layer.shift": np.zeros((1, 3, 1, 1))}
    for name, value in vgg.items():
        _, position, kind = name.split(".")
        whole[f"net.slice{stage[int(position)]}.{position}.{kind}"] = value
    for i, value in enumerate(heads.values()):
        whole[f"lin{i}.model.1.weight"] = whole[f"lins.{i}.model.1.weight"] = value
    params = read(tmp_path, whole)
    jax.tree.map(np.testing.assert_array_equal, params, read(tmp_path, vgg | heads))


def test_names_are_strict(official, tmp_path):
    vgg, heads = official
    broken = vgg | {"features.30.weight": np.zeros(1)}
    del broken["features.28.bias"]
    with pytest.raises(ValueError) as error:
        read(tmp_path, broken)
    message = str(error.value)
    assert "\n" not in message
    assert "missing ['features.28.bias', 'lin0.model.1.weight'" in message
    assert "unexpected ['features.30.weight']" in message


def test_wrong_shapes_and_contradictions_are_named(official, tmp_path):
    vgg, heads = official
    with pytest.raises(ValueError, match=r"wrong shape: features.2.bias \(3,\)"):
        read(tmp_path, vgg | heads | {"features.2.bias": np.zeros(3)})
    with pytest.raises(ValueError, match="lin0.model.1.weight is given twice"):
        read(tmp_path, vgg | heads | {"lin0.model.0.weight": np.ones((1, 64, 1, 1))})


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (np.full((1, 64, 1, 1), np.nan, np.float32), "has NaN or infinite weights: lin0.model.1.w"),
        (np.ones((1, 64, 1, 1), np.int8), "needs weights in floats: lin0.model.1.weight is int8"),
    ],
)
def test_what_are_no_weights_is_refused(official, tmp_path, head, message):
    vgg, heads = official
    with pytest.raises(ValueError, match=message):
        read(tmp_path, vgg | heads | {"lin0.model.1.weight": head})
