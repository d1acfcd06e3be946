"""`convert stablehlo`: programs that give a loaded tokenizer's numbers where vqlab is not."""

import importlib
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import vqlab
from tests import exports, tiny, tiny_kl
from tests.filled import filled
from vqlab import convert, models
from vqlab.export import stablehlo

NODES = {
    "mgvq": tiny.tokenizer_node(),
    "kl": tiny_kl.node(),
    "semanticist": tiny.semanticist_node(),
}
SAMPLING = {"semanticist": {"num_steps": 2, "guidance_scale": 1.5}}
# What is decoded: how many of the three codes, and the numbers that follow them.
DECODED = {
    "mgvq": [(3, 0), (3, 1), (1, 2)],
    "kl": [(1,)],
    "semanticist": [(3, 1, 5), (3, 4, 5), (1, 4, 2**31 - 1)],
}

# A program of someone who has the folders alone. `python program.py FOLDERS IMAGES OUTPUT DECODED`
PROGRAM = """
import importlib.util, json, sys
import numpy as np

folders, images, output, decoded = sys.argv[1:]
images, results = np.load(images), {}
for name, calls in json.loads(decoded).items():
    spec = importlib.util.spec_from_file_location(name, f"{folders}/{name}/load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    functions = loader.load()
    code = results[f"{name} code"] = np.asarray(functions["encode"](images))
    for number, (count, *numbers) in enumerate(calls):
        results[f"{name} {number}"] = functions["decode"](code[:count], *numbers)
floats = images[:1].astype(np.float32) / 127.5 - 1
results["floats"] = functions["encode_floats"](floats)  # of the last one
assert not {"vqlab", "flax"} & set(sys.modules), "it needs what made it"
np.savez(output, **results)
"""


OPTIONS = {
    "mgvq": ["--image-size=16"],
    "kl": ["--image-size=8", "--platforms=cpu,tpu"],
    "semanticist": [],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(exports, their programs) by the names of NODES; the KL autoencoder's replace others."""
    root = tmp_path_factory.mktemp("stablehlo")
    (root / "programs" / "kl").mkdir(parents=True)
    for file in ("generate.jax_export", "functions.json"):
        (root / "programs" / "kl" / file).write_text("of another model")
    for name, node in NODES.items():
        variables = dict(filled(models.build(node).init, tiny.images(1, 16)))
        source, output = root / "exports" / name, root / "programs" / name
        sampling = SAMPLING.get(name)
        exports.save(source, node, variables.pop("params"), variables, sampling=sampling)
        convert.main(["stablehlo", str(source), str(output), *OPTIONS[name]])
    return root / "exports", root / "programs"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def elsewhere(folders, images, tmp_path_factory):
    """What the programs gave in a process without vqlab."""
    scratch = tmp_path_factory.mktemp("elsewhere")
    (scratch / "program.py").write_text(PROGRAM)
    np.save(scratch / "images.npy", images)
    files = [folders[1], "images.npy", "results.npz"]
    done = subprocess.run(
        [sys.executable, "program.py", *files, json.dumps(DECODED)],
        cwd=scratch,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(scratch / "results.npz")


@pytest.mark.parametrize("name", NODES)
def test_programs_without_vqlab_give_the_numbers_of_a_loaded_tokenizer(
    folders, images, elsewhere, name
):
    tokenizer = vqlab.load(folders[0] / name)
    code = tokenizer.encode(images)
    assert elsewhere[f"{name} code"].dtype == code.dtype
    np.testing.assert_allclose(elsewhere[f"{name} code"], code, atol=2e-5)
    if name == list(DECODED)[-1]:
        np.testing.assert_allclose(elsewhere["floats"], code[:1], atol=2e-5)
    before = 2.0
    for number, (count, *given) in enumerate(DECODED[name]):
        arguments = dict(zip(("num_kept", "seed"), given, strict=False))
        found = elsewhere[f"{name} {number}"]
        # The first noise is the same for any number of images.
        expected = tokenizer.decode(code, **arguments)[:count]
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(found - before).max() > 1e-3
        before = found[:1]


def test_programs_are_for_any_batch_and_platform_and_hold_no_weights(folders):
    for name, platforms in (("mgvq", ("cpu", "cuda", "tpu")), ("kl", ("cpu", "tpu"))):
        names = {file.stem for file in (folders[1] / name).glob("*.jax_export")}
        assert names == {"encode", "encode_floats", "decode"}
        for file in (folders[1] / name).glob("*.jax_export"):
            program = jax.export.deserialize(bytearray(file.read_bytes()))
            assert program.platforms == platforms
            assert str(program.out_avals[0].shape[0]) == "b"
    # The KL autoencoder's weights, 2.3 MB, would show.
    assert (folders[1] / "kl" / "encode.jax_export").stat().st_size < 200_000


def test_the_folder_says_what_its_functions_take(folders):
    facts = json.loads((folders[1] / "semanticist" / "functions.json").read_text())
    decode = facts["functions"]["decode"]
    assert [(a["name"], a["shape"], a["dtype"]) for a in decode["arguments"]] == [
        ("concepts", ["b", 4, 4], "float32"),
        ("num_kept", [], "int32"),
        ("seed", [], "int32"),
    ]
    assert decode["result"]["shape"] == ["b", 16, 16, 3]
    card = (folders[1] / "semanticist" / "README.md").read_text()
    assert "guidance 1.5 (constant)" in card and "`seed` int32" in card
    kl = json.loads((folders[1] / "kl" / "functions.json").read_text())["functions"]["decode"]
    assert [argument["name"] for argument in kl["arguments"]] == ["latents"]


def test_the_example_in_the_readme_runs(folders, monkeypatch):
    folder = folders[1] / "mgvq"
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.syspath_prepend(folder)
    names = {}
    exec(program, names)  # our own text
    assert names["indices"].shape == (1, 2, 2, 2) and names["pictures"].shape == (1, 16, 16, 3)
    sys.modules.pop("load")


def test_errors_are_one_line_and_exit_code_2(folders, tmp_path, capsys):
    command = ["stablehlo", str(folders[0] / "mgvq")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    for arguments, message in (
        ([*command, str(tmp_path / "other")], "other holds other files"),
        (["stablehlo", str(tmp_path / "other"), str(tmp_path / "x")], "other is no workdir"),
        ([*command, str(tmp_path / "x"), "--image-size=9"], "image_size=9 is no multiple"),
        ([*command, str(tmp_path / "x"), "--platforms=gpu"], "'gpu' is none of cpu, cuda, rocm"),
    ):
        with pytest.raises(SystemExit) as exit_:
            convert.main(arguments)
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "x").exists()


def test_without_flatbuffers_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install flatbuffers"):
        stablehlo.check_output(tmp_path / "x")
