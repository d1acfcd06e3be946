"""`convert stablehlo`: programs that give a loaded network's numbers where vqlab is not."""

import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import _bottlenecks
from tests import exports, tiny, tiny_generator, tiny_kl, tiny_titok
from tests.filled import filled
from vqlab import convert, models
from vqlab.export import stablehlo, stablehlo_loader
from vqlab.export.package import flatten, load_package
from vqlab.export.stablehlo_functions import generator_functions
from vqlab.generation import LoadedGenerator
from vqlab.inference import Loaded
from vqlab.models.codec import Weights

NODES = {
    "mgvq": tiny.tokenizer_node(),
    "kl": tiny_kl.node(),
    "semanticist": tiny.semanticist_node(),
}
SAMPLING = {"semanticist": {"num_steps": 2, "guidance_scale": 1.5}}
# What is decoded: how many of the three codes, and the numbers that follow them.
DECODED = {
    "mgvq": [(2, 0), (2, 1), (2, 2)],
    "semanticist": [(2, 1, 5), (2, 4, 5), (2, 4, 2**31 - 1)],
}
# What is drawn: classes, seed, numbers, and settings in the order of the arguments.
SETTINGS = {
    "guidance_scale": (1.5, 30.0),
    "guidance_interval": (-1, 9),
    "guidance_schedule": ("constant", "linear"),
    "temperature": (1.0, 0.9),
    "top_k": (0, 9),
    "top_p": (1.0, 0.8),
}
DRAWN = [
    ([0, 7], 0, [0, 1], 1.5, -1, False, 1.0, 0, 1.0),
    ([7, 3], 2**31 - 1, [2**32 - 1, 3_000_002], 30.0, 9, True, 0.9, 9, 0.8),
]

# A program of someone who has the folders alone. `python program.py FOLDERS IMAGES OUTPUT DECODED
# DRAWN`
PROGRAM = """
import importlib.util, json, re, sys
import numpy as np

folders, images, output, decoded, drawn = sys.argv[1:]
images, results = np.load(images), {}

def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{folders}/{name}/load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.load()

for name, calls in json.loads(decoded).items():
    functions = load(name)
    code = results[f"{name} code"] = np.asarray(functions["encode"](images))
    for number, (count, *numbers) in enumerate(calls):
        results[f"{name} {number}"] = functions["decode"](code[:count], *numbers)
floats = images[:1].astype(np.float32) / 127.5 - 1
results["floats"] = functions["encode_floats"](floats)  # of the last one
for number, (labels, seed, numbers, *settings) in enumerate(json.loads(drawn)):
    arrays = np.array(labels, np.int32), seed, np.array(numbers, np.uint32)
    results[f"drawn {number}"] = load("gpt")["generate"](*arrays, *settings)
# And one does what the README says, in its folder.
sys.path.insert(0, f"{folders}/kl")
(example,) = re.findall("```python\\n(.*?)```", open(f"{folders}/kl/README.md").read(), re.DOTALL)
names = {}
exec(example, names)
results |= {f"kl {name}": names[name] for name in ("images", "latents", "pictures")}
assert not {"vqlab", "flax"} & set(sys.modules), "it needs what made it"
np.savez(output, **results)
"""


@pytest.fixture(scope="module")
def tokenizers():
    """Tokenizers of random weights by the names of NODES."""
    made = {}
    for name, node in NODES.items():
        variables = jax.device_get(filled(models.build(node).init, tiny.images(1, 16)))
        made[name] = Loaded(node, Weights(dict(variables), {}), SAMPLING.get(name))
    return made


@pytest.fixture(scope="module")
def generator():
    """A tiny second stage over indices, of random weights."""
    node = tiny_generator.index_node()
    frozen = {"tokenizer": jax.device_get(tiny_generator.variables(node["tokenizer"]))}
    return LoadedGenerator(node, Weights(jax.device_get(tiny_generator.variables(node)), frozen))


@pytest.fixture(scope="module")
def folders(tokenizers, generator, tmp_path_factory):
    """Folder of programs by the names of NODES: the KL autoencoder's in the place of others."""
    root = tmp_path_factory.mktemp("stablehlo")
    for name in ("mgvq", "semanticist"):
        codec, weights = tokenizers[name].codec, tokenizers[name].weights
        stablehlo.save_network(root / name, codec, weights, 0 if name == "semanticist" else 16)
    made = generator_functions(generator.generator, generator.weights)
    flat = jax.device_get(flatten(generator.weights))
    stablehlo.save_stablehlo(root / "gpt", "GPT", {}, {"generate": made["generate"]}, flat)
    (root / "kl").mkdir()
    for file in ("generate.jax_export", "functions.json"):
        (root / "kl" / file).write_text("of another model")
    exports.save(root / "export", NODES["kl"], jax.device_get(tokenizers["kl"].params))
    options = ["--image-size=16", "--platforms=cpu,tpu"]
    convert.main(["stablehlo", str(root / "export"), str(root / "kl"), *options])
    return root


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def elsewhere(folders, images, tmp_path_factory):
    """What the programs gave in a process without vqlab."""
    scratch = tmp_path_factory.mktemp("elsewhere")
    (scratch / "program.py").write_text(PROGRAM)
    np.save(scratch / "images.npy", images)
    files = [folders, "images.npy", "results.npz"]
    done = subprocess.run(
        [sys.executable, "program.py", *files, json.dumps(DECODED), json.dumps(DRAWN)],
        cwd=scratch,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(scratch / "results.npz")


@pytest.mark.parametrize("name", DECODED)
def test_programs_without_vqlab_give_the_numbers_of_a_loaded_tokenizer(
    tokenizers, images, elsewhere, name
):
    tokenizer = tokenizers[name]
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


def test_a_program_draws_what_the_loaded_generator_draws(generator, elsewhere):
    for number, (labels, seed, numbers, *_) in enumerate(DRAWN):
        settings = {name: values[number] for name, values in SETTINGS.items()}
        images = generator.generate(labels, seed=seed, numbers=numbers, **settings)
        np.testing.assert_allclose(elsewhere[f"drawn {number}"], images, atol=2e-5)
    assert np.abs(elsewhere["drawn 0"] - elsewhere["drawn 1"]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["index", "concept"])
def test_a_generators_folder_has_its_tokenizer_too(kind, tmp_path):
    """Also where nothing is cut, and no class tells images apart."""
    node = getattr(tiny_generator, f"{kind}_node")(num_classes=0)
    steps = {"num_steps": 2, "decoding": {"num_steps": 2}} if kind == "concept" else {}
    export = tiny_generator.save_generator(tmp_path / "export", node, sampling=steps)
    convert.main(["stablehlo", str(export), str(tmp_path / "programs")])
    functions = stablehlo_loader.load(tmp_path / "programs")
    loaded = LoadedGenerator(*load_package(export))
    rng, side = np.random.default_rng(0), loaded.image_size
    images = rng.integers(0, 256, (3, side, side, 3), np.uint8)
    code = loaded.encode(images)
    np.testing.assert_allclose(functions["encode"](images), code, atol=2e-5)
    decoded = functions["decode"](code, *((2,) if kind == "index" else (4, 0)))
    assert decoded.shape == images.shape
    labels, numbers = np.zeros(3, np.int32), np.arange(3, dtype=np.uint32)
    cuts = (4, 1.0) if kind == "index" else ()
    drawn = functions["generate"](labels, 5, numbers, 0.5, *cuts)
    settings = {"temperature": 0.5} | ({"top_k": 4} if cuts else {})
    np.testing.assert_allclose(drawn, loaded.generate(labels, seed=5, **settings), atol=2e-5)


def test_the_example_in_the_readme_gives_them_too(tokenizers, elsewhere):
    tokenizer = tokenizers["kl"]
    latents = tokenizer.encode(elsewhere["kl images"])
    np.testing.assert_allclose(elsewhere["kl latents"], latents, atol=2e-5)
    np.testing.assert_allclose(elsewhere["kl pictures"], tokenizer.decode(latents), atol=2e-5)


def test_programs_are_for_any_batch_and_platform_and_hold_no_weights(folders):
    every, of_codec = ("cpu", "cuda", "tpu"), {"encode", "encode_floats", "decode"}
    for name, platforms, functions in (
        ("mgvq", every, of_codec),
        ("kl", ("cpu", "tpu"), of_codec),
        ("gpt", every, {"generate"}),
    ):
        assert {file.stem for file in (folders / name).glob("*.jax_export")} == functions
        for file in (folders / name).glob("*.jax_export"):
            program = jax.export.deserialize(bytearray(file.read_bytes()))
            assert program.platforms == platforms
            assert str(program.out_avals[0].shape[0]) == "b"
    # The KL autoencoder's weights, 2.3 MB, would show.
    assert (folders / "kl" / "encode.jax_export").stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "given"),
    [
        (tiny_titok.node("stage1"), {"num_kept": 1}),  # with a frozen part
        (
            tiny.semanticist_node(quantizer=_bottlenecks.grouped(4, 16, 2).to_dict()),
            {"num_kept": 2, "seed": 5},
        ),
    ],
    ids=["titok", "semanticist"],
)
def test_sequences_of_indices_become_programs_too(node, given, images, tmp_path):
    module = models.build(node)
    variables = filled(module.init, tiny.images(1, 16))
    frozen = {
        name: filled(part.init, tiny.images(1, 16)) for name, part in module.frozen_parts().items()
    }
    tokenizer = Loaded(node, Weights(dict(variables), frozen), {"num_steps": 2})
    stablehlo.save_network(tmp_path, tokenizer.codec, jax.device_get(tokenizer.weights))
    spec = importlib.util.spec_from_file_location("loader", tmp_path / "load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    functions = loader.load()
    code = np.asarray(functions["encode"](images))
    np.testing.assert_array_equal(code, tokenizer.encode(images))
    assert code.dtype == np.int32 and code.shape[:2] == (3, 4)
    made = functions["decode"](code, *given.values())
    np.testing.assert_allclose(made, tokenizer.decode(code, **given), atol=2e-5)


def test_the_folder_says_what_its_functions_take(folders):
    facts = json.loads((folders / "semanticist" / "functions.json").read_text())
    decode = facts["functions"]["decode"]
    assert [(a["name"], a["shape"], a["dtype"]) for a in decode["arguments"]] == [
        ("concepts", ["b", 4, 4], "float32"),
        ("num_kept", [], "int32"),
        ("seed", [], "int32"),
    ]
    assert decode["result"]["shape"] == ["b", 16, 16, 3]
    card = (folders / "semanticist" / "README.md").read_text()
    assert "guidance 1.5 (constant)" in card and "`seed` int32" in card
    facts = json.loads((folders / "gpt" / "functions.json").read_text())
    generate = facts["functions"]["generate"]
    names = ["labels", "seed", "numbers", "guidance_scale", "guidance_interval", "is_linear"]
    assert [a["name"] for a in generate["arguments"]] == [*names, "temperature", "top_k", "top_p"]
    assert generate["result"]["shape"] == ["b", 8, 8, 3]
    kl = json.loads((folders / "kl" / "functions.json").read_text())["functions"]["decode"]
    assert [argument["name"] for argument in kl["arguments"]] == ["latents"]


def test_errors_are_one_line_and_exit_code_2(folders, tokenizers, generator, tmp_path, capsys):
    command = ["stablehlo", str(folders / "export")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    for arguments, message in (
        ([*command, str(tmp_path / "other")], "other holds other files"),
        (["stablehlo", str(tmp_path / "other"), str(tmp_path / "x")], "other is no workdir"),
        ([*command, str(tmp_path / "x"), "--platforms=gpu"], "'gpu' is none of cpu, cuda, rocm"),
    ):
        with pytest.raises(SystemExit) as exit_:
            convert.main(arguments)
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["mine.txt"]
    codec, weights = tokenizers["mgvq"].codec, tokenizers["mgvq"].weights
    with pytest.raises(ValueError, match="image_size=9 is no multiple of the model's stride 8"):
        stablehlo.save_network(tmp_path / "x", codec, weights, 9)
    gpt = generator.generator, generator.weights
    with pytest.raises(ValueError, match="image_size=16 is not the generator's image size 8"):
        stablehlo.save_network(tmp_path / "x", *gpt, 16)
    assert not (tmp_path / "x").exists()


def test_without_flatbuffers_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install flatbuffers"):
        stablehlo.check_output(tmp_path / "x")
