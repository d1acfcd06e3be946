"""The convert command: official files in and out, exact and strict."""

import argparse
import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from vqlab import convert, models
from vqlab.export import package, torch_names, torch_weights

CONFIG = """
from tests import tiny
import ml_collections

def get_config(argument=""):
    node = tiny.tokenizer_node()
    node["encoder"]["dtype"] = "ENCODER_DTYPE"
    return ml_collections.ConfigDict({"model": node})
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported folder of random weights."""
    module = tiny.tokenizer()
    variables = dict(jax.jit(module.init)(jax.random.key(0), tiny.images(1)))
    params = variables.pop("params")
    path = tmp_path_factory.mktemp("exported")
    return exports.save(path, tiny.tokenizer_node(), *jax.device_get((params, variables)))


def test_to_official_and_back_gives_the_same_tokenizer(exported, tmp_path, capsys):
    config, official = tmp_path / "config.py", tmp_path / "official.safetensors"
    config.write_text(CONFIG.replace("ENCODER_DTYPE", "float32"))
    convert.main(["to-official", str(exported), str(official)])
    convert.main(["from-official", str(official), str(tmp_path / "back"), f"--config={config}"])
    assert capsys.readouterr().out.splitlines() == [str(official), str(tmp_path / "back")]
    before, after = (exports.load(path) for path in (exported, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
    images = tiny.images(2)
    indices = vqlab.load(exported).encode(images)
    np.testing.assert_array_equal(vqlab.load(tmp_path / "back").encode(images), indices)


def test_export_copies_a_folder_with_a_model_card(exported, tmp_path):
    convert.main(["export", str(exported), str(tmp_path / "copy")])
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "| groups x codewords per group | 2 x 16 |" in card
    # 2 groups of 4 bits for 64 pixels.
    assert "| bits per pixel | 0.1250 |" in card


def test_only_a_package_is_replaced(exported, tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(SystemExit):
        convert.main(["export", str(exported), str(tmp_path)])
    assert "holds other files" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".tmpx").write_text("of an export that was killed")
    for _ in range(2):
        convert.main(["export", str(exported), str(tmp_path / "new")])
    (tmp_path / "taken" / package.WEIGHTS_FILE).mkdir(parents=True)
    with pytest.raises(ValueError, match="taken cannot be written: .*Is a directory"):
        exports.save(tmp_path / "taken", *exports.load(exported))


def test_what_is_converted_computes_in_float32_unless_asked_otherwise(exported, tmp_path):
    config, official = tmp_path / "config.py", tmp_path / "official.npz"
    config.write_text(CONFIG.replace("ENCODER_DTYPE", "bfloat16"))
    convert.main(["to-official", str(exported), str(official)])
    come = ["from-official", str(official), str(tmp_path / "in"), f"--config={config}"]
    go = ["export", str(tmp_path / "in"), str(tmp_path / "out")]
    for options, says in (
        ([], "float32"),
        (["--dtype=bfloat16"], "bfloat16"),
        (["--dtype=config"], "bfloat16 and float32"),
    ):
        for command, folder in ((come, "in"), (go, "out")):
            convert.main([*command, *options])
            card = (tmp_path / folder / "README.md").read_text()
            assert f"| computes in | {says} |" in card


def test_a_kl_autoencoder_becomes_a_folder_for_diffusers(exported, tmp_path, capsys):
    node = tiny_kl.node(decoder_depth=2)
    params = filled(models.build(node).init, tiny.images(1, 16))["params"]
    exports.save(tmp_path / "kl", node, params, {})
    command = ["to-diffusers", str(tmp_path / "kl"), str(tmp_path / "vae")]
    convert.main([*command, "--scaling-factor=0.25"])
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] == 0.25
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    with pytest.raises(SystemExit):
        convert.main(["to-diffusers", str(exported), str(tmp_path / "no")])
    assert f"{exported} is no KL autoencoder" in capsys.readouterr().err


def test_pytorch_files_are_written_as_official_scripts_read_them(exported, tmp_path):
    torch = pytest.importorskip("torch")
    convert.main(["to-official", str(exported), str(tmp_path / "official.pt")])
    tensors = torch.load(tmp_path / "official.pt", weights_only=True)["model"]
    _, params, variables = exports.load(exported)
    expected = torch_weights.to_torch_state(params, variables)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].is_contiguous()
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_a_training_checkpoints_averages_are_read_unless_the_plain_weights_are_wanted(
    exported, tmp_path, capsys
):
    torch = pytest.importorskip("torch")
    config, checkpoint = tmp_path / "config.py", tmp_path / "official.PT"
    config.write_text(CONFIG.replace("ENCODER_DTYPE", "float32"))
    _, params, variables = exports.load(exported)
    state = torch_weights.to_torch_state(params, variables)
    tensors = {f"module.{name}": torch.from_numpy(np.array(a)) for name, a in state.items()}
    averaged = {
        name: tensor + 1
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] not in torch_names.BUFFERS
    }
    saved = {"model": tensors, "ema": averaged | {"step": 3}, "args": argparse.Namespace(seed=0)}
    torch.save(saved, checkpoint)
    output, raised = tmp_path / "out", jax.tree.map(lambda array: array + 1, params)
    for options, expected, part in (
        ([], raised, "averaged weights 'ema', and from 'model'"),
        (["--weights=model"], params, "plain weights 'model'; not 'ema'"),
    ):
        convert.main(
            ["from-official", str(checkpoint), str(output), f"--config={config}", *options]
        )
        _, read, others = exports.load(output)
        jax.tree.map(np.testing.assert_array_equal, read, expected)
        stats = (tree["batch_stats"] for tree in (others, variables))
        jax.tree.map(np.testing.assert_array_equal, *stats)
        assert f"{checkpoint}: read are the {part}" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_neither_written_nor_loaded(exported, tmp_path):
    node, params, variables = exports.load(exported)
    params["quantizer"]["codebook"][0, 0, 0] = np.nan
    message = "NaN or infinite weights: params/quantizer/codebook$"
    with pytest.raises(ValueError, match=f"{tmp_path}/out, not written, has {message}"):
        exports.save(tmp_path / "out", node, params, variables)
    assert not (tmp_path / "out").exists()
    shutil.copytree(exported, tmp_path / "old")  # of a version that wrote them
    flat = traverse_util.flatten_dict({"params": params, **variables}, sep="/")
    save_file(flat, tmp_path / "old" / package.WEIGHTS_FILE)
    with pytest.raises(ValueError, match=f"{tmp_path}/old has {message}"):
        vqlab.load(tmp_path / "old")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export", "/nowhere", "OUT"], "/nowhere is no workdir"),
        (["from-official", "/nowhere.pt", "OUT", "--config=CONFIG"], "/nowhere.pt: no such"),
        (["from-official", "/nowhere.pt", "OUT", "--config=/none.py"], "no config file /none.py"),
        (["from-official", "SHORT", "OUT", "--config=CONFIG"], "missing: decoder."),
        (["to-official", "EXPORTED", "OUT.h5"], "OUT.h5: cannot write this kind of file"),
        (["to-official", "EXPORTED", "OUT/x.safetensors"], "x.safetensors cannot be written: "),
        (["to-official", "EXPORTED", "OUT.npz", "--latents=X.npz"], "without an autoencoder"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(exported, tmp_path, command, message, capsys):
    (tmp_path / "config.py").write_text(CONFIG.replace("ENCODER_DTYPE", "float32"))
    torch_weights.write_state_dict(tmp_path / "short.npz", {"quant_conv.bias": np.zeros(8)})
    names = {
        "OUT": str(tmp_path / "OUT"),
        "CONFIG": str(tmp_path / "config.py"),
        "SHORT": str(tmp_path / "short.npz"),
        "EXPORTED": str(exported),
    }
    for name, value in names.items():
        command = [word.replace(name, value) for word in command]
    with pytest.raises(SystemExit) as exit_:
        convert.main(command)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and message in error and len(error.splitlines()) == 1
