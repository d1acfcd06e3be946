"""The files that users have of FID's Inception."""

import numpy as np
import pytest

from tests import seeded_inception
from vqlab import convert
from vqlab.export import inception_weights
from vqlab.export.inception_weights import params_from_official, read_inception
from vqlab.export.state_dicts import read_state_dict
from vqlab.export.torch_weights import write_state_dict


@pytest.fixture(scope="module")
def official():
    return seeded_inception.official_state()


@pytest.fixture(scope="module")
def file(official, tmp_path_factory):
    """The state dict with counters beside it, as a .pth file has them."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    write_state_dict(path, official | {"Mixed_7c.branch1x1.bn.num_batches_tracked": np.zeros(())})
    return path


def torchscript(official):
    """The same network as clean-fid's file has it: TensorFlow's names, no scales."""
    parts = dict(inception_weights._NORM, **{"conv.weight": "weight"})
    state = {"output.weight": official["fc.weight"], "output.bias": official["fc.bias"]}
    for name, array in official.items():
        conv, _, part = name.rpartition(".")
        conv, _, kind = conv.rpartition(".")
        if conv and f"{kind}.{part}" != "bn.weight":
            state[f"{inception_weights.torchscript_name(conv)}.{parts[f'{kind}.{part}']}"] = array
    return state


def test_the_seeded_weights_are_those_of_the_arrays(official):
    assert seeded_inception.sha256(official) == seeded_inception.SHA256


def test_a_file_is_read_converted_and_read_again(official, file, capsys):
    output = file.with_name("converted.safetensors")
    convert.main(["inception", str(file), str(output)])
    assert capsys.readouterr().out.strip() == str(output)
    params, expected = read_inception(output), params_from_official(official)
    assert params.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(params[name]["kernel"], leaf["kernel"])
        np.testing.assert_array_equal(params[name]["bias"], leaf["bias"])


def test_a_batch_norm_is_folded_by_hand(official):
    conv, channel = "Mixed_6b.branch7x7_2", 5
    gamma, beta, mean, var = (
        official[f"{conv}.bn.{part}"][channel]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + 1e-3)
    leaf = params_from_official(official)[conv]
    kernel = official[f"{conv}.conv.weight"][channel, 3, 0, 6]
    np.testing.assert_allclose(leaf["kernel"][0, 6, 3, channel], kernel * scale, rtol=1e-6)
    np.testing.assert_allclose(leaf["bias"][channel], beta - mean * scale, rtol=1e-5)


def test_torchscript_names():
    """Some of each kind, as other readers of that file have them."""
    names = {
        "Conv2d_1a_3x3": "layers.conv",
        "Conv2d_4a_3x3": "layers.conv_4",
        "Mixed_5b.branch1x1": "layers.mixed.conv",
        "Mixed_5c.branch5x5_2": "layers.mixed_1.tower.conv_1",
        "Mixed_5d.branch_pool": "layers.mixed_2.tower_2.conv",
        "Mixed_6a.branch3x3": "layers.mixed_3.conv",
        "Mixed_6a.branch3x3dbl_3": "layers.mixed_3.tower.conv_2",
        "Mixed_6d.branch1x1": "layers.mixed_6.conv",
        "Mixed_6e.branch7x7dbl_5": "layers.mixed_7.tower_1.conv_4",
        "Mixed_7a.branch7x7x3_4": "layers.mixed_8.tower_1.conv_3",
        "Mixed_7b.branch3x3_1": "layers.mixed_9.tower_conv",
        "Mixed_7b.branch3x3_2b": "layers.mixed_9.tower_mixed_conv_1",
        "Mixed_7c.branch3x3dbl_3a": "layers.mixed_10.tower_1_mixed_conv",
        "Mixed_7c.branch_pool": "layers.mixed_10.tower_2_conv",
    }
    assert {name: inception_weights.torchscript_name(name) for name in names} == names


def test_the_torchscript_network_is_the_same_with_scales_of_one(official):
    ones = {name: np.ones_like(x) for name, x in official.items() if name.endswith("bn.weight")}
    state = inception_weights._from_torchscript(torchscript(official))
    assert state.keys() == official.keys()
    for name, array in (official | ones).items():
        np.testing.assert_array_equal(state[name], array)


def test_tensors_of_a_torchscript_archive_are_read_without_its_code(tmp_path):
    torch = pytest.importorskip("torch")

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 3, 1, 1))
            self.register_buffer("mean", torch.arange(4.0))

        def forward(self, x):
            return torch.nn.functional.conv2d(x, self.weight) - self.mean[:, None, None]

    inner = torch.nn.Sequential()
    inner.add_module("conv", Layer())
    inner.add_module("conv_1", torch.nn.Conv2d(4, 2, 3))
    inner.add_module("pool", torch.nn.MaxPool2d(2))
    network = torch.nn.Sequential(inner, torch.nn.Flatten())
    torch.jit.script(network).save(tmp_path / "scripted.pt")
    torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).save(tmp_path / "traced.pt")
    expected = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for name in ("scripted.pt", "traced.pt"):
        state = read_state_dict(tmp_path / name)
        assert state.keys() == expected.keys()
        jointly = [(state[key], expected[key]) for key in expected]
        assert all(np.array_equal(ours, theirs) for ours, theirs in jointly)


def test_another_network_is_one_line(official, tmp_path):
    short = {name: array for name, array in official.items() if name.startswith("fc.")}
    write_state_dict(tmp_path / "short.npz", short)
    with pytest.raises(ValueError, match="does not fit FID's Inception of 2015: missing: ") as info:
        read_inception(tmp_path / "short.npz")
    assert "short.npz" in str(info.value) and "\n" not in str(info.value)
    theirs = {"AuxLogits.fc.weight": np.zeros((1000, 768), np.float32)}
    write_state_dict(tmp_path / "other.npz", short | theirs)
    with pytest.raises(ValueError, match="torchvision's own inception_v3 is another network"):
        read_inception(tmp_path / "other.npz")
